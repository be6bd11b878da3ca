"""One declared schema per table; every stage reads and writes tables of these shapes only.

A column that a later version of a table adds is nullable, and null where an older version was read.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class TableSchema:
    """A table's name, version and columns. The version is stored in every Parquet part and raised on any change."""

    name: str
    version: int
    schema: pa.Schema


def _column(name: str, kind: pa.DataType, doc: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


def _table(name: str, version: int, *columns: pa.Field) -> TableSchema:
    metadata = {"icr.table": name, "icr.schema_version": str(version)}
    return TableSchema(name, version, pa.schema(list(columns), metadata=metadata))


_LANGUAGE = _column("language", pa.string(), "language code of the prompt, e.g. 'es'")
_PROMPT_ID = _column("prompt_id", pa.string(), "the prompt source's own id, as text")
_SAMPLE_INDEX = _column("sample_index", pa.int32(), "0 .. N-1 within (language, prompt_id)")
_INSTRUCTION = _column("instruction", pa.string(), "native instruction x^l, unchanged")
_INPUT_DIGEST = _column(
    "input_digest",
    pa.binary(16),
    "of what the row was made from besides settings and models; null in older tables",
    True,
)
_ENGLISH = _column("english_instruction", pa.string(), "English counterpart G(x^l), same prompt id", True)

_MESSAGES = _column(
    "messages", pa.string(), "JSON list of {role, content}, the instruction last; null for a single turn", True
)
_ENGLISH_MESSAGES = _column(
    "english_messages", pa.string(), "the English counterpart of messages; null for a single turn", True
)
_THOUGHT = _column("thought", pa.string(), "decoded text before the answer; null where nothing was thought", True)
_THOUGHT_LANGUAGE = _column(
    "thought_language", pa.string(), "as detected_language, of the thought; null without one", True
)

PROMPTS = _table(
    "prompts", 2, _LANGUAGE, _PROMPT_ID, _INSTRUCTION, _ENGLISH,
    _column("source", pa.string(), "data set within the prompt source, '' when it names none"),
    _MESSAGES, _ENGLISH_MESSAGES,
)  # fmt: skip

RESPONSES = _table(
    "responses", 3, _LANGUAGE, _PROMPT_ID, _SAMPLE_INDEX,
    _column("response", pa.string(), "decoded text, unchanged, special tokens left out"),
    _column("token_ids", pa.list_(pa.int32()), "ids the sampler returned, the end-of-turn token included when it stopped"),
    _column("finish_reason", pa.string(), "'stop' or 'length'"),
    _column("token_ids_source", pa.string(), "'sampler', or 'retokenised' where the engine returns text only"),
    _column("token_count", pa.int32(), "tokens in token_ids"),
    _column("character_count", pa.int32(), "Unicode code points in response"),
    _column("detected_language", pa.string(), "language code by the identifier, 'und' when it cannot tell"),
    _column("language_confidence", pa.float64(), "probability in [0, 1] of detected_language"),
    _INPUT_DIGEST,
    _column("answer_start", pa.int32(), "index in token_ids at which the answer begins; null where nothing was thought", True),
    _THOUGHT, _THOUGHT_LANGUAGE,
)  # fmt: skip

REWARDS = _table(
    "rewards", 2, _LANGUAGE, _PROMPT_ID, _SAMPLE_INDEX,
    _column("kind", pa.string(), "'cross-lingual', 'multilingual', 'translate', 'random' (control), 'scalar' or 'scalar-english'"),
    _column("policy_logprob", pa.float64(), "nats, sum over token_ids under the policy; null for kinds that it does not score", True),
    _column("reference_logprob", pa.float64(), "nats, the same under the reference; null for kinds that it does not score", True),
    _column("reward", pa.float64(), "beta * (policy_logprob - reference_logprob), or the reward model's score; null when the sample was not scored", True),
    _INPUT_DIGEST,
)  # fmt: skip

LOGPROBS = _table(
    "logprobs", 2, _LANGUAGE, _PROMPT_ID, _SAMPLE_INDEX,
    _column("kind", pa.string(), "reward kind, which says after which instruction and of which text"),
    _column("logprob", pa.float64(), "nats, sum over the completion's tokens, or a reward model's score; null when the sample was not scored", True),
    _INPUT_DIGEST,
)  # fmt: skip

TRANSLATIONS = _table(
    "translations", 2, _LANGUAGE, _PROMPT_ID, _SAMPLE_INDEX,
    _column("translation", pa.string(), "the response in English; null unless outcome is 'ok'", True),
    _column("outcome", pa.string(), "'ok', 'english' (is its own), 'filtered' (dropped before), 'empty' or 'truncated'"),
    _INPUT_DIGEST,
)  # fmt: skip

TEXT_TRANSLATIONS = _table(
    "text_translations", 1, _column("language", pa.string(), "the language that the text was translated into"),
    _column("source_language", pa.string(), "the language of the text"),
    _column("text", pa.string(), "what was translated, unchanged; every text stands here once for each language"),
    _column("translation", pa.string(), "null unless outcome is 'ok' or 'as-is'", True),
    _column("outcome", pa.string(), "'ok', 'as-is' (no letter in it), 'empty', 'truncated', 'wrong-language', or a fault"),
    _column("detail", pa.string(), "what was seen, in a few words"),
    _column("detected_language", pa.string(), "of the translation, by the identifier; 'und' when it cannot tell"),
    _column("language_confidence", pa.float64(), "probability in [0, 1] of detected_language"),
    _INPUT_DIGEST,
)  # fmt: skip

TRANSLATED_RESPONSES = _table(
    "translated_responses", 1, _column("language", pa.string(), "the language that the response was translated into"),
    _column("source_language", pa.string(), "the language of the prompt that it answers"), _PROMPT_ID, _SAMPLE_INDEX,
    _column("translation", pa.string(), "of the response; those that have none are drops"),
    _INPUT_DIGEST,
)  # fmt: skip

PREFERENCES = _table(
    "preferences", 3, _LANGUAGE, _PROMPT_ID, _INSTRUCTION, _ENGLISH,
    _column("chosen", pa.string(), "response with the highest length-controlled reward"),
    _column("rejected", pa.string(), "response with the lowest length-controlled reward, or the one that another rule of pairs takes"),
    _column("chosen_index", pa.int32(), "sample_index of chosen"),
    _column("rejected_index", pa.int32(), "sample_index of rejected"),
    _column("chosen_reward", pa.float64(), "reward before length control; null where no reward made the pair", True),
    _column("rejected_reward", pa.float64(), "reward before length control; null where no reward made the pair", True),
    _column("margin", pa.float64(), "chosen minus rejected length-controlled reward, > 0; null where no reward made the pair", True),
    _column("length_penalty_alpha", pa.float64(), "reward per character taken off, one per language; null without rewards", True),
    _column("chosen_characters", pa.int32(), "Unicode code points"),
    _column("rejected_characters", pa.int32(), "Unicode code points"),
    _column("chosen_token_ids", pa.list_(pa.int32()), "the sampled ids, trained on as they are; null: the text is tokenised for that", True),
    _column("rejected_token_ids", pa.list_(pa.int32()), "the sampled ids, trained on as they are; null: the text is tokenised for that", True),
    _MESSAGES, _ENGLISH_MESSAGES,
    _column("chosen_answer_start", pa.int32(), "index in chosen_token_ids; null where nothing was thought", True),
    _column("rejected_answer_start", pa.int32(), "index in rejected_token_ids; null where nothing was thought", True),
    _column("chosen_thought", pa.string(), "decoded text before the answer; null where nothing was thought", True),
    _column("rejected_thought", pa.string(), "decoded text before the answer; null where nothing was thought", True),
    _column("chosen_translated_from", pa.string(), "language that chosen was translated from; null where it was not", True),
    _column("rejected_translated_from", pa.string(), "language that rejected was translated from; null where it was not", True),
    _column("pair_index", pa.int32(), "which of the prompt's pairs, from 0, the best chosen first; null where a prompt has one at most", True),
    _column("chosen_language", pa.string(), "language whose prompt chosen answers; null where it is that of the row", True),
    _column("rejected_language", pa.string(), "language whose prompt rejected answers; null where it is that of the row", True),
)  # fmt: skip

EXAMPLES = _table(
    "examples", 1, _LANGUAGE, _PROMPT_ID, _INSTRUCTION,
    _column("response", pa.string(), "one response to the instruction"),
    _column("is_good", pa.bool_(), "whether the response is desirable"),
    _column("token_ids", pa.list_(pa.int32()), "of the response, with the end of its turn"),
    _MESSAGES,
)  # fmt: skip

DROPS = _table(
    "drops", 2, _LANGUAGE, _PROMPT_ID,
    _column("sample_index", pa.int32(), "the dropped sample; null when the whole prompt was dropped", True),
    _column("reason", pa.string(), "'empty', 'truncated', 'wrong-language', 'duplicate', 'nan' | 'one-survivor', ..."),
    _column("detail", pa.string(), "what was seen, in a few words"),
    _column("pair_index", pa.int32(), "which pair of a prompt that has others was dropped; null for a sample and for a whole prompt", True),
)  # fmt: skip

OUTPUTS = _table(
    "outputs", 3, _LANGUAGE, _PROMPT_ID, _SAMPLE_INDEX, _INSTRUCTION,
    _column("output", pa.string(), "decoded text, unchanged"),
    _column("token_count", pa.int32(), "tokens, the end-of-turn token included; null for outputs from files that do not say", True),
    _column("character_count", pa.int32(), "Unicode code points"),
    _column("finish_reason", pa.string(), "'stop' or 'length'; null for outputs from files that do not say", True),
    _column("detected_language", pa.string(), "language code by the identifier, 'und' when it cannot tell"),
    _column("language_confidence", pa.float64(), "probability in [0, 1] of detected_language"),
    _INPUT_DIGEST, _MESSAGES, _THOUGHT, _THOUGHT_LANGUAGE,
    _column("thought_token_count", pa.int32(), "tokens before the answer; null where nothing was thought", True),
)  # fmt: skip

JUDGMENTS = _table(
    "judgments", 2, _LANGUAGE, _PROMPT_ID, _SAMPLE_INDEX,
    _column("order", pa.string(), "'model-first', 'reference-first' or 'none' where the judge sees no order"),
    _column("preference", pa.float64(), "P(model beats reference) in [0, 1]; null unless outcome is 'ok'", True),
    _column("mass", pa.float64(), "probability both labels hold together; null where the judge has none", True),
    _column("outcome", pa.string(), "'ok', 'refusal', 'no_logprob', 'parse_error' or 'api_error'"),
    _column("judge", pa.string(), "name of the judge"),
    _column("input_tokens", pa.int64(), "tokens sent to the judge"),
    _column("output_tokens", pa.int64(), "tokens the judge returned"),
    _column("detail", pa.string(), "why the outcome is not 'ok', in a few words"),
    _INPUT_DIGEST,
)  # fmt: skip

CONFUSION = _table(
    "confusion", 1, _LANGUAGE, _PROMPT_ID, _SAMPLE_INDEX,
    _column("line_count", pa.int32(), "lines of the output with five words or more, which were identified; with 0 it is in no rate"),
    _column("confused_lines", pa.list_(pa.int32()), "which lines of the output, split at '\\n', are in another language or none, from 0"),
    _column("confused_languages", pa.list_(pa.string()), "what each of them was identified as, 'und' for nothing"),
    _column(
        "english_words", pa.list_(pa.string()),
        "English words in its lines, each once; null where none was looked for: a line is confused, or the language has no word rate", True,
    ),
)  # fmt: skip

SCORES = _table(
    "scores", 2, _LANGUAGE,
    _column("metric", pa.string(), "'win_rate', 'lc_win_rate', 'fidelity', ..."),
    _column("value", pa.float64(), "percent for rates, the metric's own unit otherwise", True),
    _column("standard_error", pa.float64(), "of value, same unit; null where none is defined", True),
    _column("n", pa.int64(), "judgments or outputs behind value"),
    _column("flag", pa.string(), "why value deviates from its definition, '' when it does not"),
    _column("low", pa.float64(), "lower end of the 95% interval, same unit; null where it is that of standard_error, or none", True),
    _column("high", pa.float64(), "upper end of the same", True),
)  # fmt: skip

INSTRUCTION_CHECKS = _table(
    "instruction_checks", 1, _LANGUAGE, _PROMPT_ID, _SAMPLE_INDEX,
    _column("turn", pa.int32(), "from 1; the output of a later turn has the prompt id PROMPT_ID#TURN"),
    _column("source", pa.string(), "variant or data set of the prompt, such as 'local' or 'mt'; '' when nothing names one"),
    _column("instruction_id", pa.string(), "kind of the instruction, e.g. 'punctuation:no_comma'"),
    _column("kwargs", pa.string(), "JSON object of the checker's arguments"),
    _column("strict", pa.bool_(), "whether the output follows the instruction; null where that cannot be verified", True),
    _column("loose", pa.bool_(), "whether it does in one of the forms that IFEval's loose criterion allows; null as strict", True),
    _column("reason", pa.string(), "why it cannot be verified, '' where it is"),
    _INPUT_DIGEST,
)  # fmt: skip

MT_BENCH = _table(
    "mt_bench", 2, _LANGUAGE, _column("question_id", pa.string(), "the question file's own id"),
    _column("category", pa.string(), "e.g. 'writing', 'math'"),
    _column("turn", pa.int32(), "1 or 2"),
    _column("instruction", pa.string(), "what the user asks in this turn"),
    _column("answer", pa.string(), "what the model said in this turn"),
    _column("rating", pa.float64(), "1 to 10 by the judge; null unless outcome is 'ok'", True),
    _column("outcome", pa.string(), "'ok', 'refusal', 'parse_error' or 'api_error'"),
    _column("judge", pa.string(), "name of the judge"),
    _column("input_tokens", pa.int64(), "tokens sent to the judge"),
    _column("output_tokens", pa.int64(), "tokens the judge returned"),
    _column("detail", pa.string(), "the judge's explanation, or why the outcome is not 'ok'"),
    _INPUT_DIGEST,
)  # fmt: skip

REWARD_BENCH = _table(
    "reward_bench", 1, _LANGUAGE,
    _column("pair_id", pa.string(), "of the pair within its language"),
    _column("prompt_id", pa.string(), "the same for all pairs of one prompt"),
    _column("category", pa.string(), "what the pairs' source calls it, or the corruption; '' for none"),
    _column("source", pa.string(), "'pairs' or 'corruptions'"),
    _column("kind", pa.string(), "reward kind, or 'length': the baseline that prefers the longer response"),
    _column("chosen_policy_logprob", pa.float64(), "nats, of the better response under the policy; null where no model scored it", True),
    _column("chosen_reference_logprob", pa.float64(), "nats, the same under the reference", True),
    _column("rejected_policy_logprob", pa.float64(), "nats, of the worse response under the policy", True),
    _column("rejected_reference_logprob", pa.float64(), "nats, the same under the reference", True),
    _column("chosen_reward", pa.float64(), "of the better response: implicit reward, or characters for 'length'; null where it has none", True),
    _column("rejected_reward", pa.float64(), "of the worse response", True),
    _column("margin", pa.float64(), "chosen_reward minus rejected_reward", True),
    _column("is_right", pa.float64(), "1 where the better response has the higher reward, 0 where the lower, 0.5 where both have the same, "
            "or where the pair's label is a tie; null where the kind could not score it", True),
    _column("is_tie", pa.bool_(), "the label prefers neither response"),
    _column("chosen_characters", pa.int32(), "Unicode code points"),
    _column("rejected_characters", pa.int32(), "Unicode code points"),
    _column("reason", pa.string(), "why is_right is null, as in a table of drops; '' where it is not"),
    _column("chosen_digest", pa.binary(16), "what the log-probabilities of the better response were made from", True),
    _column("rejected_digest", pa.binary(16), "the same of the worse response", True),
)  # fmt: skip

BENCHMARKS = _table(
    "benchmarks", 2, _LANGUAGE, _column("family", pa.string(), "'arc', 'hellaswag', ..., or the task's own name"),
    _column("task", pa.string(), "lm-eval's task name"),
    _column("metric", pa.string(), "lm-eval's metric, e.g. 'acc_norm,none'"),
    _column("value", pa.float64(), "in the metric's own unit, usually a share in [0, 1]"),
    _column("standard_error", pa.float64(), "of value; null where lm-eval gives none", True),
    _column("n", pa.int64(), "documents scored"),
    _column("in_chat", pa.bool_(), "asked with the chat template; null in older tables, which did not", True),
    _column("other_metrics", pa.string(), "JSON object of the other metrics that the task reports, by lm-eval's name", True),
    _column("faults", pa.string(), "JSON object: how many requests were not asked or answered as they should be, by reason", True),
    _column(
        "documents",
        pa.list_(
            pa.struct([
                pa.field("task", pa.string()),  # of a group, the one that the document belongs to
                pa.field("document", pa.int64()),  # lm-eval's doc_id
                pa.field("digest", pa.string()),  # of the document, as lm-eval's doc_hash
                pa.field("prompt_digest", pa.string()),  # of the prompt, examples and template included
                pa.field("value", pa.float64()),  # of metric; null where it is not a number of one document
                pa.field("answer", pa.string()),  # generated, or the likeliest choice
                pa.field("target", pa.string()),
            ])
        ),
        "results by document; null in older tables",
        True,
    ),
    _INPUT_DIGEST,
)  # fmt: skip

BENCHMARK_DIFFERENCES = _table(
    "benchmark_differences", 1, _LANGUAGE, _column("family", pa.string(), "as in benchmarks"),
    _column("task", pa.string(), "lm-eval's task name"),
    _column("metric", pa.string(), "lm-eval's metric"),
    _column("baseline", pa.float64(), "mean over the documents that both have, of the baseline"),
    _column("value", pa.float64(), "the same of this policy"),
    _column("difference", pa.float64(), "value - baseline"),
    _column("standard_error", pa.float64(), "of difference, paired by document; null for a single one", True),
    _column("n", pa.int64(), "documents that both have"),
    _column("better", pa.int64(), "documents on which this policy's value is the higher one"),
    _column("worse", pa.int64(), "documents on which it is the lower one"),
    _column("p_value", pa.float64(), "McNemar's exact test, two-sided; null where values are not 0 or 1", True),
)  # fmt: skip

TABLES: dict[str, TableSchema] = {
    table.name: table
    for table in (
        PROMPTS, RESPONSES, LOGPROBS, TRANSLATIONS, TEXT_TRANSLATIONS, TRANSLATED_RESPONSES, REWARDS, PREFERENCES, DROPS, OUTPUTS, JUDGMENTS, CONFUSION, SCORES,
        INSTRUCTION_CHECKS,
    )
}  # fmt: skip
