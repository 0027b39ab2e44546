"""What the prompt's length in tokens, known at arrival, adds to a head that reads the text."""

from __future__ import annotations

from pars_model.experiments import matrix_page
from pars_model.experiments.cells import Cell
from pars_model.experiments.heads import HeadSettings
from pars_model.experiments.matrix import Setting, compare
from pars_model.experiments.page import Section
from pars_model.experiments.workbench import Workbench

CELLS = (
    Cell("r1distill_gsm8k", "DeepSeek-R1-Distill-Qwen-7B", "GSM8K, R1-Qwen-7B (reasoning)", True),
    Cell("zeroeval_gsm", "gpt-4o-2024-05-13", "GSM8K, GPT-4o"),
    Cell("zeroeval_crux", "o1-mini-2024-09-12", "CRUXEval, o1-mini (reasoning)", True),
    Cell("zeroeval_crux", "gpt-4o-2024-05-13", "CRUXEval, GPT-4o"),
    Cell("arena_hard_v01", "gpt-4-0314", "Arena-Hard, GPT-4"),
    Cell("arena_hard_1k_478", "vicuna-13b-v1.5", "Arena (2023), Vicuna-13B"),
    Cell("alpaca_eval", "Meta-Llama-3.1-405B-Instruct-Turbo", "AlpacaEval (chat), Llama-3.1-405B"),
)
REFERENCE, TOLD, UNTOLD = "text alone", "text and prompt tokens", "the same, tokens unknown"
SUBJECT = "Prompt's tokens known"
NAMES = ("prompt_tokens",)
VARIANTS = {
    REFERENCE: HeadSettings(delta=0.05),
    TOLD: HeadSettings(delta=0.05, facts=NAMES),
    UNTOLD: HeadSettings(delta=0.05, facts=NAMES, told=False),
}
INTRODUCTION = """\
The margin objective on the features and splits of the first section. *Text and prompt tokens*: the
head also reads the logarithm of the prompt's length in tokens, taken for unknown in a tenth of the
training. *Tokens unknown*: the same head in an engine that tells it none. Real lengths come
without the LLM's own count, so the encoder's tokenizer counts here, over the whole prompt; the
features see 128 tokens at most. These tables hold no other fact that differs within a cell:
`max_tokens`, `structured`, `tools` and `reasoning` are not judged here."""


def run(bench: Workbench) -> Section:
    """Compare heads with and without the fact in every cell."""
    found = [compare(bench, Setting(cell), VARIANTS, REFERENCE) for cell in CELLS]
    names = list(VARIANTS)
    return Section(
        "Facts known at arrival",
        [INTRODUCTION, *matrix_page.parts(found, names, REFERENCE)],
        {"facts.png": matrix_page.picture(found, names, REFERENCE)},
        {"facts.png": f"Tau with the prompt's tokens less that of {REFERENCE}, by cell"},
        f"{matrix_page.short(SUBJECT, found, (REFERENCE, TOLD), REFERENCE)} "
        f"{matrix_page.over_ridge(found, REFERENCE)}",
    )
