"""One frozen, validated configuration per stage. Every field is a command-line flag, a preset key and an MLproject parameter.

A field's *role* says how it enters the identity under which finished work is found again (`identity`): `setting` by value,
where it changes the result, `input` by the rows that are read, `model` by its content, `place` (where and how fast, never what)
not at all.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import nearest, spelled, twice
from icr_platform.core.languages import is_language
from icr_platform.core.mappings import Pins
from icr_platform.core.parts import Named, Worlds
from icr_platform.core.secrets import redact
from icr_platform.core.template_arguments import TemplateArguments

Role = Literal["setting", "input", "model", "place"]


def setting(default: Any, doc: str, role: Role = "setting", later: bool = False, **constraints: Any) -> Any:
    """Declare a field of a configuration.

    later: added when there was finished work without it, whose identity must not change: it enters where it is not its default.
    """
    if isinstance(default, float) and constraints:
        constraints.setdefault("allow_inf_nan", False)  # what has a bound is a number
    extra: dict[str, JsonValue] = {"role": role, "later": later}
    return Field(default, description=doc, json_schema_extra=extra, **constraints)


def split_at_commas(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _known_languages(value: object) -> object:
    codes = split_at_commas(value)
    if not isinstance(codes, (list, tuple)):
        return codes
    for code in codes:
        if isinstance(code, bool):
            raise ValueError(f"{str(code).lower()} is a truth value in YAML; quote a language code")
        if not isinstance(code, str):
            raise ValueError(f"{code!r} is not a language code; write codes such as en, zh-Hant, swh_Latn")
        if not is_language(code):
            near = nearest(code)
            raise ValueError(f"unknown language code {code!r}" + (f", nearest is {near!r}" if near else ""))
    tags = tuple(spelled(code) for code in codes)
    if same := twice(tags):
        raise ValueError(f"{same[0]!r} and {same[1]!r} are the same language; keep one")
    return tags


def _calendar_day(value: object) -> object:
    if isinstance(value, str):
        value = date.fromisoformat(value.strip()) if value.strip()[4:5] == "-" else value
    if not isinstance(value, date) or isinstance(value, datetime):  # pydantic would take 2026 for seconds since 1970
        raise ValueError("not a date, write it as in 2026-01-01")
    return value


def _none(value: object) -> object:
    return None if isinstance(value, str) and value.lower() in ("none", "null", "") else value


DEFAULT_PROMPT = "default"


def _system_prompt(value: object) -> object:
    """One text, or texts by language, which are kept as a JSON object: the same value from YAML, flags and Python."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"begins with {{ and is not a JSON object ({error})") from None
    if not isinstance(value, Mapping):
        return value if not isinstance(value, str) or value.strip() else ""
    for code, text in value.items():
        if isinstance(code, bool) or not isinstance(text, str):
            seen = "a truth value in YAML, quote the code" if isinstance(code, bool) else f"{text!r}, not text"
            raise ValueError(f"its entry {str(code).lower() if isinstance(code, bool) else code!r} is {seen}")
    _known_languages([code for code in value if code != DEFAULT_PROMPT])
    return json.dumps(dict(sorted(value.items())), ensure_ascii=False) if any(value.values()) else ""


SystemPrompt = Annotated[str, BeforeValidator(_system_prompt)]
Languages = Annotated[tuple[str, ...], BeforeValidator(_known_languages)]
OptionalFloat = Annotated[float | None, BeforeValidator(_none)]
OptionalInt = Annotated[int | None, BeforeValidator(_none)]
CalendarDay = Annotated[date, BeforeValidator(_calendar_day)]


INPUTS, WHERE = "inputs and output", "where it runs"


class Config(BaseModel):
    """Base of all configurations: frozen, unknown keys refused.

    required: fields that a command cannot start without; their defaults are empty, since a preset need not name them. `needed` says
    which of them a configuration cannot do without.
    heading: the one in a command's help above the fields that a class declares.
    place_heading: the one above those of the role `place`, where it is another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="strings")
    required: ClassVar[tuple[str, ...]] = ()
    heading: ClassVar[str] = ""
    place_heading: ClassVar[str] = ""

    @property
    def needed(self) -> tuple[str, ...]:
        """The required fields, without those that the other fields make superfluous."""
        return self.required

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: object, info: ValidationInfo) -> object:
        """Python takes true for 1, and `samples: yes` of an older YAML would be one sample."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)}:
            raise ValueError(f"{str(value).lower()} is a truth value; give a number")
        return value


class ChatSettings(Config):
    """How chat templates are rendered and models are opened, by every stage that turns messages into tokens.

    A stage's configuration has them next to `policy` and `seed`; `iterate` has them once and hands them to all stages, whose
    sections cannot name others: a policy and a reference that saw different prompts would have no log-ratio.
    """

    heading = INPUTS

    template_date: CalendarDay = setting(
        date(2026, 1, 1),
        "today, as chat templates print it (Llama 3.2, gpt-oss)",
    )
    system_prompt: SystemPrompt = setting(
        "",
        'system message of prompts that have none; by language: {"default": "...", "sw": "..."}; the English reward instruction takes '
        "that of en",
        later=True,
    )
    system_role: Literal["template", "fold"] = setting(
        "template",
        "a system message that a template has no place for (Gemma 2) is refused; fold: it heads the user's next message",
        later=True,
    )
    chat_template_kwargs: TemplateArguments = setting(
        {},
        'arguments of chat templates, such as {"enable_thinking": false}',
        later=True,
    )
    trust_remote_code: bool = setting(
        False, "run the code that a model brings with it (auto_map in its config.json); read it first", "place"
    )

    def system_prompt_in(self, language: str) -> str:
        """The system message of prompts in a language that have none of their own; '' for none.

        >>> ChatSettings(system_prompt={"default": "Be brief.", "sw": "Kwa ufupi."}).system_prompt_in("sw")
        'Kwa ufupi.'
        """
        if not self.system_prompt.startswith("{"):
            return self.system_prompt
        texts: dict[str, str] = json.loads(self.system_prompt)
        return texts.get(language, texts.get(DEFAULT_PROMPT, ""))

    def asked(self, conversation: Conversation, language: str) -> Conversation:
        """The conversation as a model is given it: with the system prompt of its language, where it has none of its own."""
        return conversation.with_system(self.system_prompt_in(language))


CHAT_DEFAULTS = ChatSettings()


class PinnedInputs(Config):
    """Inputs whose files must be those that were meant."""

    heading, place_heading = INPUTS, INPUTS

    pins: Pins = setting({}, "SHA-256 of files of the inputs, by their paths", "place")


class ScoreSettings(Config):
    """Which tokens of a response are scored and trained on, where a model thinks before it answers.

    As `ChatSettings`, one for all stages: what the rewards ranked is what is trained on.
    """

    heading = INPUTS

    score: Literal["answer", "whole"] = setting(
        "answer",
        "tokens that are scored and trained on; answer: those behind the thought; whole: all",
        later=True,
    )


C = TypeVar("C", bound=Config)


def leaves(config: type[Config], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field of a configuration as (dotted name, field), nested settings flattened."""
    for name, info in config.model_fields.items():
        if is_section(info):
            yield from leaves(info.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{name}", info


def grouped(config: type[Config]) -> dict[str, dict[str, FieldInfo]]:
    """The fields of a configuration by heading, without its sections: first those of its own class, then those it inherits.

    A stage that gives an inherited field another default leaves it under the heading of the class that declared it.
    """
    owners = [owner for owner in config.__mro__ if issubclass(owner, Config)]
    declared_by = {name: owner for owner in owners for name in owner.__annotations__}  # the last one declares it first
    groups: dict[str, dict[str, FieldInfo]] = {}
    for owner in owners:
        place_heading = vars(owner).get("place_heading", owner.heading)
        for heading, is_place in ((owner.heading, False), (place_heading, True)):
            for name, info in config.model_fields.items():
                if declared_by[name] is owner and (role(info) == "place") == is_place and not is_section(info):
                    groups.setdefault(heading, {})[name] = info
    return groups


def is_section(info: FieldInfo) -> bool:
    """Whether a field is a configuration of its own, as `train` is in that of iterate."""
    return isinstance(info.annotation, type) and issubclass(info.annotation, Config)


def role(info: FieldInfo) -> Role:
    """How the field enters the fingerprint."""
    extra = info.json_schema_extra
    return extra["role"] if isinstance(extra, dict) else "setting"  # type: ignore[return-value]


def identifying(config: Config) -> dict[str, Any]:
    """The settings by name that say what the result is: those of the role `setting`, later ones where they are not their default."""
    values: dict[str, Any] = {}
    for name, info in leaves(type(config)):
        extra = info.json_schema_extra
        is_later = isinstance(extra, dict) and extra.get("later", False)
        if role(info) == "setting" and not (is_later and getattr(config, name) == info.default):
            values[name] = getattr(config, name)
    return values


def choices(info: FieldInfo) -> tuple[str, ...]:
    """The names that a field may have; empty where it takes any value."""
    if get_origin(info.annotation) is Literal:
        return tuple(map(str, get_args(info.annotation)))
    return next((annotation.names for annotation in info.metadata if isinstance(annotation, Named)), ())


def validate(config: type[C], values: Mapping[str, Any], source: str, worlds: Worlds | None = None) -> C:
    """Build a configuration.

    Args:
        worlds: whose names may stand for their parts.

    Raises:
        InputError: every wrong key of `source` in one line, unknown ones with the nearest.
    """
    try:
        return config.model_validate(dict(values), context=worlds)
    except ValidationError as error:
        names = [name for name, _ in leaves(config)] + list(config.model_fields)
        problems = [_explain(problem["loc"], problem, names) for problem in error.errors(include_url=False)]
        raise InputError(f"{source}: " + "; ".join(problems)) from None


def _explain(location: tuple[int | str, ...], problem: Any, names: list[str]) -> str:
    name = ".".join(str(part) for part in location if not str(part).startswith("function-"))
    if problem["type"] == "extra_forbidden":
        section, _, field = name.rpartition(".")
        if section and field in names:
            return f"unknown field {name!r}; give {field!r} outside the sections, once for all of them"
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        return f"unknown field {name!r}" + (f", nearest is {near[0]!r}" if near else "; remove it")
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    # YAML reads `arm: 2026` as a number, and `[de, true]` as a truth value.
    fix = (
        "; quote it"
        if problem["type"] == "string_type" and isinstance(problem["input"], (bool, int, float, date))
        else ""
    )
    return f"field {name!r}: {message}, got {problem['input']!r}{fix}"


def without_secrets(config: C) -> C:
    """The configuration for records: `***` stands in its texts where a secret was, which is to be given again with the next run."""
    shown: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            shown[name] = without_secrets(value)
        elif isinstance(value, str):
            shown[name] = redact(value)
        elif isinstance(value, tuple):
            shown[name] = tuple(redact(item) if isinstance(item, str) else item for item in value)
        elif isinstance(value, dict):
            shown[name] = _redacted(value)
    return config.model_copy(update=shown)


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _redacted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def require(config: Config, command: str, source: str = "config") -> None:
    """Raise InputError naming every required field that is empty; command: what needs it, for the message."""
    missing = [name for name in config.needed if not getattr(config, name)]
    if missing:
        flags = " ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise InputError(f"{source}: field {missing[0]!r} is missing for {command}; give {flags}")


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{'train.beta': 1} -> {'train': {'beta': 1}}."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, leaf = name.split(".")
        target = nested
        for folder in folders:
            target = target.setdefault(folder, {})
        target[leaf] = value
    return nested


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` put over it, section by section."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
