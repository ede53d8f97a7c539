"""When which part of the model is updated."""
