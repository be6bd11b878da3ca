"""The demo: a micro-world in five real languages with an exact grader, and a model small enough to train on one core.

A toy, labelled as one. It shows that the method runs and that, in this world, English preferences reach other languages;
it says nothing about real models. `world` has the tasks, `authors` the texts, `grader` the judge, `bootstrap` makes what
`iterate` needs, `pretraining` rebuilds the SFT checkpoint in `sft/`.
"""

from icr_platform.core.parts import Part, World

JUDGE, IDENTIFIER = "icr_platform.demo.judge:DemoJudge", "icr_platform.demo.identifier:identifier"
CHECKER = "icr_platform.demo.checker:check"
TRANSLATOR = "icr_platform.demo.translator:translator"
"""What settings call the world's parts where the command line does not translate `demo`."""
WORLD = World(
    name="demo",
    prepare="icr_platform.demo.bootstrap:prepare",
    title="The demo world",
    description=(
        "A toy: a micro-world in five real languages with an exact grader and a model of under a million parameters. "
        "It shows that the method runs and works there; it says nothing about real models."
    ),
    parts={
        "judge": Part(JUDGE, "the demo world's grader"),
        "language_identifier": Part(IDENTIFIER, "the demo world's exact one"),
        "checker": Part(CHECKER, "the demo world's grader"),
        "translator": Part(TRANSLATOR, "the demo world's exact one, by its lexicon"),
    },
    on_demand={"reward_model": "icr_platform.demo.bootstrap:prepare_reward_model"},
)
"""What the command line hands in under the name `demo`."""
