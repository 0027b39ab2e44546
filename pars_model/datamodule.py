"""A length table as training, validation, test and prediction batches."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from pars_export.errors import ConfigError, InputError
from pars_export.facts import FactSpec, standardise
from pars_export.files import sha256_file
from pars_model.batches import (
    Batch,
    Collator,
    EpochBatches,
    Items,
    Keys,
    bucketed_batches,
    home_clusters,
)
from pars_model.evidence import NOISES, label_noise
from pars_model.fit_split import FitSplit, origin_notes
from pars_model.lengths import (
    LengthTable,
    has_pair,
    read_lengths,
    require_pairs,
    silent_groups,
    split_prompts,
)
from pars_model.pairs import random_pairs
from pars_model.targets import group_targets, surest_order, widest_difference

if TYPE_CHECKING:
    from pars_export.inputs import TextTokenizer

log = logging.getLogger("pars")

PAIRINGS = ("in_batch", "random")
MANY_LONG = 0.1
"""Share of the training prompts that may be longer than what is read, without a word."""


class PromptLengthDataModule(pl.LightningDataModule):  # type: ignore[misc]  # mypy does not follow lightning
    """Prompts and their response lengths from one table.

    Args:
        path: length table (Parquet, JSONL or CSV).
        batch_size: prompts per training batch (pairs, where ``pairing`` is random).
        pairing: in_batch (each prompt encoded once, all its pairs in the batch) or random (the
            paper: each pair encoded for itself).
        delta: smallest relative difference of lengths that makes a pair, 0 for any.
        survive: smallest probability that a rerun of the LLM keeps a pair's order, 0.5 for any;
            the adaptive filter, whose differences grow with the noise of the lengths.
        noise: what is known of that noise: one spread for each LLM and config (group), or one
            that also falls with the length (length).
        spread: standard deviation of a prompt's log lengths between reruns, for tables without
            repeated samples; 0.4 is a guess, known ones are 0.2 to 0.7.
        partners: random partners per prompt, where ``pairing`` is random.
        eval_batch_size: prompts per batch of validation, test and prediction.
        least_batches: fewest batches of an epoch on each device; where the prompts are too few, it
            takes all of them several times, in other batches.
        pool: batches drawn together and sorted by token count; 1 for purely random batches. Pairs
            of sorted ones seldom join a short prompt and a long one.
        val_fraction: share of prompts for validation, where the table names none; of a ranker that
            is validated or tested its own fit's share counts.
        test_fraction: share of prompts for the test, where the table has no split; likewise.
        num_workers: processes that make batches; 0 makes them in the training process.
        seed: of pairs and of the order of batches.

    Raises:
        ConfigError: a value is unknown or out of range.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 64,
        pairing: str = "in_batch",
        delta: float = 0.2,
        survive: float = 0.5,
        noise: str = "group",
        spread: float = 0.4,
        partners: int = 10,
        eval_batch_size: int = 64,
        least_batches: int = 1,
        pool: int = 1,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if pairing not in PAIRINGS:
            raise ConfigError(f"data.pairing is {pairing!r}; expected {' or '.join(PAIRINGS)}.")
        for name, value, least in (
            ("batch_size", batch_size, 2 if pairing == "in_batch" else 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("partners", partners, 1),
            ("least_batches", least_batches, 1),
            ("pool", pool, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise ConfigError(f"data.{name} is {value}; expected at least {least}.")
        if not 0 <= delta < 1:
            raise ConfigError(f"data.delta is {delta}; expected 0 or more and less than 1.")
        if not 0.5 <= survive < 1:
            raise ConfigError(
                f"data.survive is {survive}; expected a probability from 0.5 (any pair) to 1, and "
                "less than 1."
            )
        if noise not in NOISES:
            raise ConfigError(f"data.noise is {noise!r}; expected one of {', '.join(NOISES)}.")
        if not spread > 0:
            raise ConfigError(f"data.spread is {spread}; expected a number above 0.")
        if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
            raise ConfigError(
                f"data.val_fraction is {val_fraction} and data.test_fraction {test_fraction}; "
                "expected shares whose sum is below 1."
            )
        self.path, self.batch_size, self.pairing, self.delta = path, batch_size, pairing, delta
        self.survive, self.noise, self.spread = survive, noise, spread
        self.least_batches = least_batches
        self.partners, self.pool, self.num_workers = partners, pool, num_workers
        self.eval_batch_size, self.seed = eval_batch_size, seed
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.table: LengthTable | None = None
        self.split: NDArray[np.str_] = np.array([], dtype=np.str_)
        self._fits = True
        self._tokens: list[list[int]] = []
        self._pad_id = self._max_length = 0

    def setup(self, stage: str | None = None) -> None:
        """Read the table, split it by prompt text and tokenise each prompt once.

        Raises:
            InputError: the table cannot be used.
            ConfigError: several processes, and Lightning would deal out the batches once more.
        """
        accelerator = getattr(self.trainer, "_accelerator_connector", None)
        if self.trainer.world_size > 1 and getattr(accelerator, "use_distributed_sampler", False):
            raise ConfigError(
                "trainer.use_distributed_sampler is True with several devices, but the data module "
                "gives each process its share of the batches itself: set it to False."
            )
        self._fits = stage in (None, "fit")
        if self.table is None:
            table = read_lengths(self.path, self.trainer.lightning_module.reads)
            for note in table.notes:
                log.warning(note)
            self.table = table
            tokenizer: TextTokenizer = self.trainer.lightning_module.text_tokenizer()
            self._tokens = tokenizer.encode(table.prompts)
            self._pad_id, self._max_length = tokenizer.pad_id, tokenizer.spec.max_length
        self.split = split_prompts(self.table, self.val_fraction, self.test_fraction)
        if self._fits:
            self._check_splits(self.table)
            self._tell_of_long_prompts(self._max_length)

    def _check_splits(self, table: LengthTable) -> None:
        require_pairs(table, self.path)
        silent = silent_groups(table)
        if silent:
            log.warning("%s: %s", self.path, silent)
        if not self.comparable("train"):
            if table.has_split:
                raise InputError(
                    f"{self.path}: the training split has no two prompts of one LLM and config "
                    "whose lengths differ: mark more rows with split train."
                )
            log.warning("%s is too small to split: training on all of it.", self.path)
            self.split = np.full_like(self.split, "train")
        if widest_difference(self.items("train")) < self.delta:
            raise InputError(
                f"{self.path}: no two training lengths of one LLM and config differ by data.delta "
                f"= {self.delta} of the longer: lower data.delta."
            )
        surest = surest_order(self.items("train"))
        if surest < self.survive:
            raise InputError(
                f"{self.path}: no order of two training lengths survives a rerun with data.survive "
                f"= {self.survive} (the surest {surest:.2f}): lower data.survive."
            )
        self._tell_of_many_cut_off()
        fine_tune = self.trainer.lightning_module.hparams.fine_tune
        if not self.comparable("val") and not fine_tune and (self.split == "val").any():
            log.warning(
                "%s has no validation prompts to compare: those that there are neither teach nor "
                "validate, and the training prompts validate out of fold.",
                self.path,
            )
        if fine_tune and not self.comparable("val"):
            log.warning(
                "%s has no validation prompts to compare: validating on the training prompts, so "
                "the validation tau says nothing about unseen ones.",
                self.path,
            )

    def _tell_of_many_cut_off(self) -> None:
        censored = self.items("train").censored
        if censored.mean() > 0.5:
            log.warning(
                "%s: %d of %d training lengths are cut off, and of two such the order is unknown: "
                "collect them with a larger max_tokens.",
                self.path,
                censored.sum(),
                len(censored),
            )

    def _tell_of_long_prompts(self, max_length: int) -> None:
        train = [ids for ids, part in zip(self._tokens, self.split, strict=True) if part == "train"]
        share = np.mean([len(ids) >= max_length for ids in train])
        if share > MANY_LONG:
            log.warning(
                "%s: %.0f%% of the training prompts fill model.max_length = %d tokens or are cut "
                "to them: with more, the ranker reads more of them, and takes longer.",
                self.path,
                100 * share,
                max_length,
            )

    def comparable(self, split: str) -> bool:
        """Whether two prompts of a split can be compared: one LLM's, with lengths that differ."""
        table = self._table()
        mine = self.split[table.prompt] == split
        return has_pair(table, mine)

    def _table(self) -> LengthTable:
        assert self.table is not None, "setup() comes first"
        return self.table

    def items(self, split: str) -> Items:
        """Items of a split, with targets standardised by the training split of their group."""
        table = self._table()
        in_train = self.split[table.prompt] == "train"
        target, quantile = group_targets(table, in_train)
        mine = np.flatnonzero(self.split[table.prompt] == split)
        noise = label_noise(table, in_train, self.noise, self.spread)
        spec = self.fact_spec()
        facts = spec.vectors(table.facts, len(table)) if spec else None
        everything = Items(
            table.prompt,
            table.length,
            table.censored,
            table.group,
            target,
            quantile,
            noise,
            facts,
            np.arange(len(table)),
        )
        return everything.pick(mine)

    def fact_spec(self) -> FactSpec:
        """The facts that the ranker reads, standardised by the training items of its fit.

        A ranker from a checkpoint brings its own standardisation.
        """
        ranker = self.trainer.lightning_module
        if ranker.fact_spec is None:
            table = self._table()
            in_train = self.split[table.prompt] == "train"
            known = {name: values[in_train] for name, values in table.facts.items()}
            ranker.fact_spec = spec = standardise(ranker.fact_names, known)
            silent = [fact.name for fact in spec.facts if not fact.scale]
            if silent:
                log.warning(
                    "%s: the training rows tell no two values of %s, so nothing is learned of it.",
                    self.path,
                    " and ".join(silent),
                )
        found: FactSpec = ranker.fact_spec
        return found

    def facts_of(self, prompts: NDArray[np.int64]) -> NDArray[np.float32]:
        """What a ranker reads beside these prompts (n, width): by the first item of each."""
        table = self._table()
        item = np.full(len(table.prompts), -1)
        item[table.prompt[::-1]] = np.arange(len(table))[::-1]
        chosen = item[prompts]
        return self.fact_spec().vectors(
            {name: values[chosen] for name, values in table.facts.items()}, len(prompts)
        )

    def responses(
        self, items: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """All responses of these items (n,) of the table.

        Returns:
            Of each response its item's place in ``items``, its length and whether it was cut off.
        """
        table = self._table()
        place = np.full(len(table), -1)
        place[items] = np.arange(len(items))
        _, length, censored = table.responses()
        found = np.repeat(place, np.diff(table.sample_start))
        mine = found >= 0
        return found[mine], length[mine], censored[mine]

    def summary(self) -> dict[str, Any]:
        """What the ranker was trained on, as plain values."""
        table = self._table()
        names = [str(group) for group in table.groups]
        return {
            "table": Path(self.path).name,
            "table_sha256": sha256_file(Path(self.path)),
            "responses": int(table.sample_start[-1]),
            "prompts": {
                split: int((self.split == split).sum()) for split in ("train", "val", "test")
            },
            "split_column": table.has_split,
            "llms": names[:20],
            "llm_count": len(names),
            "datasets": list(table.datasets)[:20],
            "pairing": self.pairing,
            "delta": self.delta,
            "survive": self.survive,
            "val_fraction": self.val_fraction,
            "test_fraction": self.test_fraction,
            "trained_on_all": bool((self.split == "train").all()),
            "batch_size": self.batch_size,
            "least_batches": self.least_batches,
            "seed": self.seed,
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        """Random batches of prompts or pairs, new ones each epoch."""
        items = self.items("train")
        if self.pairing == "random":
            make = self._pair_batches(items)
        else:
            make = self._prompt_batches(items)
        trainer = self.trainer
        assert trainer is not None
        sampler = EpochBatches(
            make,
            lambda: trainer.current_epoch,
            self.seed,
            trainer.global_rank,
            trainer.world_size,
            self.least_batches,
        )
        return DataLoader(
            Keys(),
            batch_sampler=sampler,
            collate_fn=self._collator(items),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split, sorted by token count.

        Raises:
            InputError: a ranker is validated on a table that has too little that it has not seen.
        """
        if not self._fits:
            return self._evaluation(self._unseen("val"))
        return self._evaluation(self.items("val" if self.comparable("val") else "train"))

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split, sorted by token count.

        Raises:
            InputError: it has too little that the ranker has not seen.
        """
        return self._evaluation(self._unseen("test"))

    def _unseen(self, part: str) -> Items:
        """Items of a part that the ranker's own fit has not seen.

        Only now: when `setup` is called, the checkpoint is not read yet.
        """
        table = self._table()
        summary = self.trainer.lightning_module.training_summary
        fit = FitSplit.of(summary.get("data", {}))
        if not fit.by:
            fit = FitSplit(val=self.val_fraction, test=self.test_fraction)
        if part == "val" and fit.by == "hash" and not fit.val:
            raise InputError(
                f"{self.path}: the ranker's fit kept no prompts for validation "
                "(data.val_fraction 0): judge it on those that it kept for the test, by pars test."
            )
        unseen, notes = fit.judged(table, self.path, part)
        judged = table.select(unseen[table.prompt])
        for note in (*notes, *origin_notes(summary, judged)):
            log.warning("%s: %s", self.path, note)
        named = fit.split(table)
        self.split = np.where(unseen, part, np.where(named == part, "train", named))
        if not self.comparable(part):
            raise InputError(
                f"{self.path} has no two {'validation' if part == 'val' else part} prompts of one "
                f"LLM and config whose lengths differ: add rows with split {part}."
            )
        silent = silent_groups(judged)
        if silent:
            log.warning("%s: of the prompts judged: %s", self.path, silent)
        return self.items(part)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """All prompts of the table, sorted by token count."""
        everything = np.arange(len(self._table().prompts))
        return self._sorted(everything.tolist(), self.items(""))

    def _evaluation(self, items: Items) -> DataLoader[Batch]:
        """This process's share of the prompts; never none, so that all go the same way."""
        prompts = np.unique(items.prompt).tolist()
        share = prompts[self.trainer.global_rank :: self.trainer.world_size]
        return self._sorted(share or prompts[:1], items)

    def _sorted(self, prompts: list[int], items: Items) -> DataLoader[Batch]:
        ordered = sorted(prompts, key=lambda prompt: len(self._tokens[prompt]))
        return DataLoader(
            ordered,  # a list is a data set: it has length and items
            batch_size=self.eval_batch_size,
            collate_fn=self._collator(items),
            num_workers=self.num_workers,
        )

    def _collator(self, items: Items) -> Collator:
        return Collator(self._tokens, self._pad_id, items, self.delta, self.survive)

    def _prompt_batches(self, items: Items) -> Any:
        prompts = np.unique(items.prompt)
        homes = home_clusters(items.prompt, items.group)
        home = np.array([homes[prompt] for prompt in prompts.tolist()])
        tokens = np.array([len(self._tokens[prompt]) for prompt in prompts.tolist()])
        return lambda rng: bucketed_batches(prompts, home, tokens, self.batch_size, self.pool, rng)

    def _pair_batches(self, items: Items) -> Any:
        pairs = np.stack(
            random_pairs(
                items.length,
                items.censored,
                items.group,
                items.prompt,
                self.partners,
                np.random.default_rng(self.seed),
                self.delta,
            ),
            axis=1,
        )
        if not len(pairs):
            raise InputError(
                f"{self.path}: no random partner passed data.delta = {self.delta}: lower it, or "
                "raise data.partners."
            )
        starts = range(0, len(pairs), self.batch_size)

        def make(rng: np.random.Generator) -> list[list[object]]:
            shuffled = pairs[rng.permutation(len(pairs))].tolist()
            return [shuffled[start : start + self.batch_size] for start in starts]

        return make
