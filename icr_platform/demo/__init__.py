"""A micro-world in five real languages with an exact grader: a toy that shows the method at work."""
