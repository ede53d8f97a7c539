"""Records in, one page, one picture and the records behind them out."""

from collapse_bench.leaderboard.page import write_leaderboard

__all__ = ["write_leaderboard"]
