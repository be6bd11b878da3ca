"""translate: prompts, responses, outputs or preferences in other languages, through English."""
