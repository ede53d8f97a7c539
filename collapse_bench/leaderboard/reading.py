"""What a page says beside its numbers: how to read them, and what they must not be read as."""

from collapse_bench.leaderboard.curves import JUMP
from collapse_bench.leaderboard.marks import APART, OWN_BUDGET
from collapse_bench.leaderboard.ranking import TOLERANCE

SECTIONS = """\
The records hold {sections} combinations of corpus, digest, labels, vocabulary and budget. Each has
its own section; numbers of different sections must not be compared."""

OUTDATED = """\
These cells carry metrics of another version than this package computes, which are shown as `–`.
Score each anew: `python -m collapse_bench score --write arrays CELL`, CELL being its folder among
the runs; where its arrays are of an older version, too, `--write model` in place of it."""

TOO_HIGH = """\
A *beyond* marked ‡ or ¶ may be too high: such a row keeps its place, which may be too good. The
comparisons below do not repeat the marks."""

OTHER_BUDGET = f"""\
Rows marked {OWN_BUDGET} were trained with another number of tokens, as they say: at equal tokens
they are not to be compared with the others. The comparisons below do not repeat the mark."""

NO_RESULT = "**Nothing here can be compared: no cell has a result.**"

ALL_APART = f"""\
**Nothing here can be compared: every row with a result is shown apart ({APART}).**"""

ONE_SEED = "No places: a single seed says nothing about another."

NO_CONTROL = "No places: without a language model nobody knows what an entry pays."

NO_PLAIN_VAE = "No differences to the plain VAE: no entry without a remedy has a result."

ABSENT_METRICS = """\
Where a table shows `– ∅`, the posteriors of the entry are of a family for which the metric does not
exist, and this is why."""

TASKS = """\
A task is an architecture on a corpus, under one vocabulary, at a budget. The numbers are *beyond*.
IQM is the interquartile mean over the finished seeds of all tasks, in nats as they are, so a task
in which there is more to tell weighs more; its interval is a bootstrap over seeds within each task.
P is the chance that a seed is above a seed of the plain VAE, a tie counting half, mean over tasks;
it does not depend on the scale. Neither knows of NLL, so entries of which it is more than
{tolerance} above the language model's in some task, or whose gap is not known, come last."""
TASKS = TASKS.replace("{tolerance}", f"{TOLERANCE:.1f} nat")

READING = """\
- One evaluator measures every entry: whole test split, dropout and word dropout off, beta = 1.
  Checkpoints are chosen on the validation split, never on test. The header says
  by which optimiser all entries are trained; its learning rate is constant for half the budget and
  then falls, linearly to a twentieth or exponentially to a thousandth.
- Begin with *beyond*, the smallest of four numbers: what z tells beyond the length and the first
  words of a sentence, *and* the decoder uses. U = NLL - D is what the decoder gains from z, the
  rate less the gap between posterior and true posterior. The shuffle gap is what it loses with the
  z of another sentence of the same length, and hence not below what it gains from z beyond the
  length; the later one is of the tokens after the first three. MI beyond is what z tells of the
  sentence, less what it tells of length and first words.
  Each can be had without the others: a decoder that is blind has U = 0 whatever the encoder writes
  into z, a posterior that is the same for all sentences has MI = 0 whatever its rate, and a z that
  is the length has both, and nothing beyond.
- *useful* is min(U, MI), what z tells of length and first words included; the table below the first
  one takes both apart.
- Then read what it costs, the gap to the language model. A remedy may buy information with a worse
  model of the text, so only entries within {tolerance} of the language model have a place. Where a
  remedy replaces the decoder, the gap is the decoder's as well: below 0 at R = 0 is no use of z.
- KL alone ranks nothing here, nor does MI or AU: R is set by hand in many remedies, MI of an
  encoder that nobody listens to can be as high as ln N, and AU counts dimensions however little
  they carry. The MI of He et al. 2019 stands beside ours for comparison with published tables only:
  it is capped at ln 32 = 3.47 nats.
- A remedy that is swept through its knob is a curve. Compare curves at the same rate or at the same
  NLL. Nothing is read off beyond the first and the last point, nor between two neighbours of which
  one has more than {jump} times the rate of the other: somewhere between them the model collapses,
  and nobody has measured where. The line in the picture is broken there, and the most at an NLL is
  that of points and unbroken lines only.
- Whether an NLL is a bound on -log p(x) is measured on every cell, never declared. One whose
  decoder sees what it has to predict, whose prior looks at the sentence, or whose probabilities do
  not sum to 1 is no model of the text, however low its NLL: it is shown apart, with the reason. So
  is a model that the suite tells something in advance, such as the length: its NLL says what
  knowing that is worth.
- `value (s)` is one seed: s is the standard error over test sentences that its record carries. It
  says nothing about another seed, and since all entries meet the same sentences, it overstates the
  error of a gap.
- `mean ± h` is over two to nine seeds, h being half of the 95 % Student t interval; from ten seeds
  on `mean [low, high]` is the 95 % BCa bootstrap interval. Sentences never count as seeds.
- p is that of a paired sign-flip test over seeds, two-sided and up to 14 seeds exact; beside it p
  after Holm's correction for the number of entries in the table, each measure by itself. Places
  rest on intervals that are not corrected so.
- An estimate of MI may fall below 0 by noise. Two entries that agree to the last digit have
  settings that made no difference at this budget.
- `–` means that there is no such number, `not finite` that it is NaN or infinite; a mean is shown
  only if every finished seed has a number.
- In the picture the axes of R and of the gap are linear up to 1 nat and logarithmic beyond. On a
  grey line the negative ELBO R + D is the same, lower is better; on the dashed line it equals the
  language model's NLL. A collapsed model sits at R = 0. In the lower panels up is more use of z and
  left is a better model of the text. A black star is an oracle whose latent was told the labels;
  the dash-dotted line is what it has.
- In the table of known attributes the first line is the entropy of each in the test split: more
  than that nothing can tell of it."""
READING = READING.replace("{tolerance}", f"{TOLERANCE:.1f} nat").replace("{jump}", f"{JUMP:g}")
