"""Which experiments there are. A module of one has ``run(bench) -> Section`` and no other duty."""

from __future__ import annotations

# name -> (module with run, one line of help); the page has them in this order
EXPERIMENTS: dict[str, tuple[str, str]] = {
    "objectives": (
        "pars_model.experiments.objectives",
        "margin, logistic, ListMLE, pointwise and buckets on the same encoder, data and budget",
    ),
    "filter": (
        "pars_model.experiments.filters",
        "which pairs teach: fixed delta, rerun noise, noise model, soft weight and margin",
    ),
    "samples": (
        "pars_model.experiments.samples",
        "labels: the median of several answers to a prompt against one answer",
    ),
    "borrowed": (
        "pars_model.experiments.borrowed",
        "labels: what the lengths of other LLMs on the same prompts add",
    ),
    "facts": (
        "pars_model.experiments.facts",
        "the prompt's length in tokens, known at arrival, beside its text",
    ),
    "halves": (
        "pars_model.experiments.halves",
        "the n-gram half beside a head on frozen features, in every cell of the sections above",
    ),
    "solved": (
        "pars_model.experiments.solved",
        "a head in closed form beside one by gradients on the same frozen features, with the half",
    ),
    "few": (
        "pars_model.experiments.few",
        "fits to 30 to 1,000 prompts, with and without a predictor that the half starts from",
    ),
    "small": (
        "pars_model.experiments.small",
        "pars fit of 300 to 2,000 prompts by the default recipe and by the one in closed form",
    ),
    "inputs": (
        "pars_model.experiments.inputs",
        "how much of a prompt is read, where many are long: heads on features of 64 to 512 tokens",
    ),
    "mixed": (
        "pars_model.experiments.mixed",
        "one head for all data sets of an LLM: tau on each of them and on mixed traffic",
    ),
    "frontier": (
        "pars_model.experiments.frontier",
        "tau against microseconds: n-gram ridge, students, encoders of 2, 3 and 6 layers",
    ),
    "encoders": (
        "pars_model.experiments.encoders",
        "from a table of 10,000 prompts to an exported predictor, by 6 layers and by 12",
    ),
    "recipe": (
        "pars_model.experiments.recipe",
        "the default recipe fine-tuned in full, and the ceilings beside it",
    ),
    "parts": (
        "pars_model.experiments.parts",
        "the default recipe with one part after the other changed, and on exam questions",
    ),
    "default-predictor": (
        "pars_model.experiments.default_predictor",
        "the predictor inside the package: built again, and judged on what it has not seen",
    ),
}
