"""The demonstration: its LLM, its prompts, their measured lengths and the stages in between."""
