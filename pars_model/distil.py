"""Distil a trained ranker into a student that scores a prompt in well under a millisecond.

The student learns the teacher's scores of the table's training prompts, of the prompts of --texts
where given (their lengths need not be known: only the teacher reads them) and of prompts spliced
from both, and beside them the lengths themselves. Of a teacher that is a checkpoint it learns to
tell the vectors behind the scores, too, which say more of a text than one number, and those of
single words are what its embeddings begin with. Prompts that the split keeps for validation or test
are never learned from, wherever they appear; where the teacher's fit split by a hash of the text,
these are what the hash kept, and of a table with a column split what that keeps, too. DIR is a
predictor folder that needs numpy, tokenizers and safetensors alone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pars_export.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pars_export.artifact import Manifest
    from pars_model.evaluate import Scorer, VectorScorer
    from pars_model.lengths import LengthTable
    from pars_model.student_fit import Recipe

_SPLICED_OF_ONE = 8
"""Most splices for each real prompt: among more of them the lengths would teach too little."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pars distil``."""
    parser.add_argument("teacher", type=Path, help="checkpoint of a fit, or predictor folder")
    parser.add_argument("--data", type=Path, required=True, metavar="TABLE", help="length table")
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="more prompts for the teacher to score, one a line or JSONL",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="predictor folder")
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="keep what the teacher says in this file (.npz), and go on from what is in it",
    )
    parser.add_argument(
        "--spliced",
        type=int,
        default=80_000,
        metavar="N",
        help="prompts made of the start of one and the end of another, for the teacher to score "
        "(default 80000; at most eight for each real one)",
    )
    parser.add_argument(
        "--members",
        type=int,
        default=1,
        metavar="N",
        help="students that are trained apart and score as one, in N times the time (default 1)",
    )
    parser.add_argument("--epochs", type=int, default=6, help="of the student (default 6)")
    parser.add_argument("--max-length", type=int, default=64, help="tokens read (default 64)")
    parser.add_argument("--vocabulary", type=int, default=12_000, help="subwords (default 12000)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="cores to use (default 1)")


def run(args: argparse.Namespace) -> int:
    """Entry of ``pars distil``."""
    for name in ("epochs", "members", "threads"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} is {getattr(args, name)}: expected 1 or more.")
    if args.spliced < 0:
        raise InputError(f"--spliced is {args.spliced}: expected 0 or more.")
    if args.vocabulary < 100:
        raise InputError(f"--vocabulary is {args.vocabulary}: expected 100 or more.")
    import torch

    from pars_export.artifact import folder_sha256
    from pars_export.inputs import InputSpec
    from pars_export.prompts import read_texts
    from pars_model.evaluate import load_scorer, training_of
    from pars_model.fit_split import FitSplit
    from pars_model.student import StudentShape
    from pars_model.student_fit import Recipe

    torch.set_num_threads(args.threads)
    recipe = Recipe(
        spec=InputSpec(max_length=args.max_length, truncation="head_tail"),
        shape=StudentShape(vocabulary=args.vocabulary),
        course=replace(Recipe().course, epochs=args.epochs, seed=args.seed),
        members=args.members,
    )
    more = [] if args.texts is None else read_texts(args.texts)
    teacher = load_scorer(args.teacher, args.threads)
    manifest = distil(teacher, args.data, args.out, recipe, more, args.scores, args.spliced)
    data = cast("dict[str, dict[str, int]]", manifest.training["data"])
    tau, of_teacher = (manifest.metrics[name] for name in ("tau", "teacher_tau"))
    knew = FitSplit.of(training_of(teacher).get("data", {})).learned_all_but_test()
    knows = ", which has learned from these prompts" if knew else ""
    print(f"validation tau of {data['prompts']['val']} prompts: {tau:.3f}, ", end="")
    print(f"the teacher's: {of_teacher:.3f}{knows}")
    print(f"sha256 to pin: {folder_sha256(args.out)}")
    print(args.out)
    return 0


def distil(
    teacher: Scorer,
    data: Path,
    out: Path,
    recipe: Recipe,
    more: Sequence[str] = (),
    scores_file: Path | None = None,
    spliced: int = 0,
) -> Manifest:
    """Train a student of ``teacher`` and write its predictor folder, whole or not at all.

    Args:
        teacher: a ranker, whose vectors are learned too, or a predictor.
        data: length table; split as it says itself, otherwise by a hash of the text; what the
            teacher's fit held out by the hash is held out in any case.
        out: where; an older predictor there is replaced.
        recipe: how the student looks and learns.
        more: texts without lengths.
        scores_file: where what the teacher says is kept between runs.
        spliced: how many prompts to make up of the training prompts and ``more``; at most eight for
            each of them, and those that the split would keep for validation or test are left out.

    Raises:
        InputError: the table cannot be used, the teacher does not know its prompts, or which of
            them it was trained on is unknown.
        PredictorError: ``out`` holds something else than a predictor.
    """
    import numpy as np

    from pars_model.evaluate import training_of
    from pars_model.fit_split import FitSplit
    from pars_model.kept import in_steps
    from pars_model.lengths import read_lengths, require_pairs
    from pars_model.splice import splice
    from pars_model.student_fit import Vectors, fit_student
    from pars_model.student_folder import write_student

    table = read_lengths(data)
    require_pairs(table, data)
    # By the shares of the teacher's fit: what it was trained on, it knows too well to be judged on.
    of_teacher = training_of(teacher)
    fit = FitSplit.of(of_teacher.get("data", {}))
    fit.require_column(table, data, "teacher")
    split = fit.taught(table)
    both = table.has_split and fit.by == "hash"
    how = ", by its column and by the hash of the teacher's fit" if both else ""
    for name in ("train", "val"):
        require_pairs(table.select((split == name)[table.prompt]), f"{data} (split {name}{how})")
    known = set(table.prompts)
    others = [text for text in dict.fromkeys(more) if text not in known]
    unlabelled = list(compress(others, fit.may_teach(others, table)))
    real = [*(table.prompts[i] for i in np.flatnonzero(split == "train")), *unlabelled]
    seen = known.union(more)
    found = splice(real, min(spliced, _SPLICED_OF_ONE * len(real)), recipe.course.seed)
    new = [text for text in found if text not in seen]
    made = list(compress(new, fit.may_teach(new, table)))
    texts = [*table.prompts, *unlabelled, *made]
    part = np.concatenate([split, np.full(len(unlabelled) + len(made), "train")])
    wanted = np.flatnonzero(part != "test")
    has_vectors = hasattr(teacher, "scores_and_vectors")
    read = cast("VectorScorer", teacher).scores_and_vectors if has_vectors else teacher.score
    said = in_steps(read, [texts[i] for i in wanted], "teacher", scores_file)
    if has_vectors != (said.ndim == 2):
        raise InputError(
            f"{scores_file}: its answers are not of the kind that this teacher gives; name another "
            "file."
        )
    rows = np.full((len(texts), *said.shape[1:]), np.nan, dtype=np.float32)
    rows[wanted] = said
    del said  # of many texts some hundred megabytes
    scores = rows[:, 0] if has_vectors else rows
    if np.isnan(scores[wanted]).any():
        raise InputError("The teacher does not know some of the prompts; give another teacher.")

    def vectors_of(words: Sequence[str]) -> NDArray[np.float32]:
        return in_steps(read, words, "its words", scores_file)[:, 1:]

    vectors = Vectors(rows[:, 1:], vectors_of) if has_vectors else None
    student = fit_student(table, texts, part, scores, recipe, vectors)
    summary = {**_summary(table, data, split), "val_fraction": fit.val, "test_fraction": fit.test}
    # What the hash of the teacher's fit kept out, it keeps out of the student, too.
    summary["split_column"] = table.has_split and not both
    summary |= {"unlabelled": len(unlabelled), "spliced": len(made)}
    training = {"data": summary, "teacher": _named(teacher)}
    if "sources" in of_teacher:
        training["sources"] = of_teacher["sources"]  # the student knows of them by its teacher
    return write_student(out, table, part, scores, student, recipe, training)


def _summary(table: LengthTable, data: Path, split: NDArray[np.str_]) -> dict[str, object]:
    """What the student was trained on; `pars evaluate` finds the unseen prompts by it."""
    from pars_export.files import sha256_file

    names = [str(group) for group in table.groups]
    return {
        "table": data.name,
        "table_sha256": sha256_file(data),
        "prompts": {name: int((split == name).sum()) for name in ("train", "val", "test")},
        "llms": names[:20],
        "llm_count": len(names),
        "datasets": list(table.datasets)[:20],
    }


def _named(teacher: Scorer) -> dict[str, object]:
    """Which predictor taught; a checkpoint by what it was trained on."""
    from pars_export import Predictor

    if isinstance(teacher, Predictor):
        return {"predictor_sha256": teacher.sha256}
    return {"training": getattr(teacher, "training_summary", {})}
