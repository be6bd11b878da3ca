"""The demo: a micro-world in five real languages with an exact grader, and a model small enough to train on one core.

A toy, labelled as one. It shows that the method runs and that, in this world, English preferences reach other languages;
it says nothing about real models. `world` has the tasks, `authors` the texts, `grader` the judge, `bootstrap` makes what
`iterate` needs, `pretraining` rebuilds the SFT checkpoint in `sft/`.
"""
