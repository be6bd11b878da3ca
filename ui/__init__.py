"""The inspector: a Gradio app in which people read what the iterations did and record their verdicts (`icr inspect`)."""
