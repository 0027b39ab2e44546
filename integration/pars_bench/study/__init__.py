"""What every order gains over traffics, loads and GPUs: many replays and one page."""
