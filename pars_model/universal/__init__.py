"""The default predictor: one for every LLM, from lengths that may be redistributed."""
