# ruff: noqa: ARG002  (Lightning gives hooks more than they need; hparams hold the rest)
"""The ranker: an encoder, a linear head, and one score per prompt (higher means longer)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pars_export.errors import ConfigError, InputError
from pars_export.facts import Facts, FactSpec, check_names, standardise
from pars_export.inputs import InputSpec, TextTokenizer
from pars_export.network import POOLINGS, RankerNetwork
from pars_export.runtimes.arrays import Arrays
from pars_export.runtimes.ngram_half import NgramHalf
from pars_model.batches import Batch
from pars_model.calibration import fit_calibration
from pars_model.checkpoint_content import CONTENT, LARGE_HPARAMS, content_of, take_content
from pars_model.encoder import find_encoder, pretrained_weights
from pars_model.evaluate import FEW_PROMPTS
from pars_model.losses import Labels, build_objective
from pars_model.optim import check_rates, learning_rate_factor, parameter_groups
from pars_model.reading import pooled, read
from pars_model.solved_head import take_solved_head
from pars_model.validation import Pass, ScoredItems, metrics_of

log = logging.getLogger("pars")


class ResponseLengthRanker(pl.LightningModule):  # type: ignore[misc]  # mypy does not follow lightning
    """Ranks prompts by the length of the response that an LLM will give.

    Args:
        encoder: model folder, ``embedded:minilm``, or the name of a model of the hub.
        pooling: mean, layers (three layers' means side by side), cls or pooler.
        max_length: most tokens read of a prompt, special tokens included.
        truncation: head, or head_tail (first and last half of what is too long).
        objective: margin (the paper's), logistic, listmle, pointwise or bucket.
        margin: wanted distance of scores, for the margin objective.
        buckets: number of length buckets, for the bucket objective.
        evidence: what a pair's evidence, the sureness of its order under a rerun, does: none,
            weight (of the pair) or margin (which grows with it).
        lr: learning rate of the encoder's last layer.
        head_lr: learning rate of the head.
        layer_decay: factor on the learning rate from each layer to the one below it.
        weight_decay: of matrices; biases and norms have none.
        warmup: share of the steps in which the learning rate rises.
        schedule: linear (falls to 0 at the last step) or constant, after the warm-up.
        dropout: before the head.
        fine_tune: whether encoder and head learn by gradients. Without, the encoder stays as it is
            and the head is solved in closed form (`pars_model.solved_head`) from all training
            prompts, which few of them are best used for; rates, losses and epochs then do nothing.
        encoded_together: most prompts of a batch that the encoder takes at once on a CPU, those of
            similar token counts together, so that it pads little; 0 for all.
        facts: what the head reads of a request beside its text, of prompt_tokens, max_tokens,
            structured, tools and reasoning: columns of the length table; none by default.
        fact_dropout: share of those facts taken for unknown in training, so that serving may lack
            any of them.
        ngram_half: whether the best weights get an n-gram half (`pars_model.ngram_half`) at the end
            of a fit.
        prior: predictor that this half starts from where the table is small (`pars_model.prior`):
            `default`, a predictor folder, or `none`.
        encoder_config: content of the encoder's config.json; given by a checkpoint, and then no
            pretrained weights are read.
        tokenizer_json: content of the encoder's tokenizer.json; given by a checkpoint.

    Attributes:
        calibration: from score to response lengths, fitted on what validates each epoch.
        fact_spec: the facts read and their standardisation; None until a fit has data.
        ngrams: arrays of its n-gram half (`pars_model.ngram_half`), whose score is added to the
            network's; None for none.
        out_of_fold: where a head in closed form has no validation prompts, scores (prompts of the
            fit's table,) of the training prompts by heads that have not seen them: a fit validates
            by these. None else.
        metrics: tau-b and pair accuracy of the latest validation.
        training_summary: what the ranker was trained on, plain values.

    Raises:
        InputError: the encoder cannot be found or read.
        ConfigError: a value is unknown or out of range.
    """

    def __init__(
        self,
        encoder: str = "embedded:minilm",
        pooling: str = "mean",
        max_length: int = 128,
        truncation: str = "head_tail",
        objective: str = "margin",
        margin: float = 1.0,
        buckets: int = 10,
        evidence: str = "none",
        lr: float = 1e-4,
        head_lr: float = 1e-3,
        layer_decay: float = 1.0,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        schedule: str = "linear",
        dropout: float = 0.1,
        fine_tune: bool = True,
        encoded_together: int = 16,
        facts: list[str] | None = None,
        fact_dropout: float = 0.1,
        ngram_half: bool = False,
        prior: str = "none",
        encoder_config: dict[str, Any] | None = None,
        tokenizer_json: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if pooling not in POOLINGS:
            raise ConfigError(
                f"model.pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}."
            )
        check_rates(lr, head_lr, layer_decay, warmup, schedule)
        if encoded_together < 0:
            raise ConfigError(
                f"model.encoded_together is {encoded_together}; expected a number of prompts, or 0 "
                "for all of a batch."
            )
        if not fine_tune and (facts or objective == "bucket"):
            other = f"model.facts is {facts}" if facts else "model.objective is bucket"
            raise ConfigError(
                f"model.fine_tune is false, and {other}: a head in closed form has one output and "
                "reads the text alone. Leave that out, or let it learn by gradients."
            )
        if not 0 <= fact_dropout < 1:
            raise ConfigError(f"model.fact_dropout is {fact_dropout}, which is out of range.")
        self.fact_names = check_names(facts or (), "model.facts")
        self.fact_spec: FactSpec | None = None
        self.input_spec = InputSpec(max_length=max_length, truncation=truncation)
        self.objective = build_objective(objective, margin, buckets, evidence)
        files = None
        if encoder_config is None or tokenizer_json is None:
            files = find_encoder(encoder)
            encoder_config, tokenizer_json = files.config, files.tokenizer_json
            # Only now, so that loggers do not print them: a checkpoint needs no other file.
            self.hparams.update(encoder_config=encoder_config, tokenizer_json=tokenizer_json)
        positions = encoder_config.get("max_position_embeddings")
        if isinstance(positions, int) and max_length > positions:
            raise ConfigError(
                f"model.max_length is {max_length}, but the encoder takes {positions} tokens at "
                "most: lower it."
            )
        self.tokenizer_json = tokenizer_json
        vocabulary = encoder_config.get("vocab_size")
        if files is not None and isinstance(vocabulary, int):
            bound = self.text_tokenizer().id_bound
            if bound > vocabulary:
                raise InputError(
                    f"Encoder {files.source}: its tokenizer.json has ids up to {bound - 1}, and "
                    f"its config.json {vocabulary} tokens; they are not of one model."
                )
        width = 2 * len(self.fact_names)
        network = RankerNetwork(encoder_config, pooling, self.objective.outputs, width)
        # Its parts are ours, so that weights have the same names in checkpoint and predictor; a
        # tuple hides the whole from torch, which would name each weight twice.
        self.encoder, self.head, self._network = network.encoder, network.head, (network,)
        self.fact_head = network.fact_head
        if files is not None:
            self._take(pretrained_weights(files), files.source)
        self.encoder.set_attn_implementation("sdpa")  # same scores, faster training
        self.dropout = nn.Dropout(dropout)
        self.calibration: dict[str, object] | None = None
        self.ngrams: Arrays | None = None
        self._half: tuple[NgramHalf, TextTokenizer] | None = None
        self.out_of_fold: NDArray[np.float32] | None = None
        self.metrics: dict[str, float] = {}
        self.training_summary: dict[str, Any] = {}
        self._pass = Pass()

    @property
    def network(self) -> RankerNetwork:
        """The network without lightning; it shares this ranker's weights."""
        return self._network[0]

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the facts that it reads beside the text."""
        return self.fact_names

    def text_tokenizer(self) -> TextTokenizer:
        """The tokenizer of this ranker, cutting texts as in serving."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "tokenizer.json")
            path.write_text(self.tokenizer_json, encoding="utf-8")
            return TextTokenizer(path, self.input_spec)

    def _take(self, weights: Mapping[str, Tensor], source: str) -> None:
        missing, _ = self.encoder.load_state_dict(weights, strict=False)
        if missing:
            raise InputError(
                f"Encoder {source} lacks weights that its config.json asks for ({missing[0]} and "
                f"{len(missing) - 1} more): save the model again."
            )

    def outputs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        row: Tensor | None = None,
        facts: Tensor | None = None,
    ) -> Tensor:
        """Outputs of the head in float32, (n, objective.outputs).

        Args:
            input_ids: tokens, (p, t).
            attention_mask: 1 for tokens, 0 for padding, (p, t).
            row: the prompt of each item, (n,); by default each prompt is one item.
            facts: what is read beside the text of each item, (n, width).
        """
        together = self.hparams.encoded_together
        vector = self.dropout(pooled(self.network, input_ids, attention_mask, together))
        # bfloat16 keeps 8 bits: in it, scores of different prompts would tie.
        with torch.autocast(vector.device.type, enabled=False):
            if self.fact_head is not None:
                assert facts is not None
                chosen = vector if row is None else vector[row]
                return self.network.logits(chosen, self._some_unknown(facts))
            outputs = self.head(vector)  # once a prompt, for all of its items
            return outputs if row is None else outputs[row]

    def _some_unknown(self, facts: Tensor) -> Tensor:
        """Facts (n, width) of which training takes a share for unknown."""
        if not self.training:
            return facts
        values, unknown = facts.chunk(2, dim=1)
        gone = torch.rand_like(values) < self.hparams.fact_dropout
        return torch.cat([values.masked_fill(gone, 0.0), unknown.masked_fill(gone, 1.0)], dim=1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, facts: Tensor | None = None
    ) -> Tensor:
        """Scores (n,) of tokens (n, t), and facts (n, width) where they are read."""
        return self.network(input_ids, attention_mask, facts)

    def score(
        self, texts: Sequence[str], facts: Sequence[Facts] | None = None, batch_size: int = 64
    ) -> NDArray[np.float32]:
        """Scores (n,) of texts in their order, as the exported predictor gives them.

        Args:
            texts: prompts.
            facts: what is known of each beside its text; by default nothing.
            batch_size: texts encoded together.

        Raises:
            InputError: a score is NaN or infinite.
        """
        beside = self._spec().of(facts, len(texts))
        return self.network_scores(texts, beside, batch_size) + self.half_scores(texts)

    def network_scores(
        self, texts: Sequence[str], beside: NDArray[np.float32] | None = None, batch_size: int = 64
    ) -> NDArray[np.float32]:
        """Scores (n,) of the network alone.

        Args:
            texts: prompts.
            beside: what is read of each beside its text, (n, width); by default nothing is known.
            batch_size: texts encoded together.

        Raises:
            InputError: a score is NaN or infinite.
        """
        scores = np.empty(len(texts), dtype=np.float32)
        for part, _, found in self._read(texts, beside, batch_size):
            scores[part] = found
        return scores

    def half_scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What the n-gram half adds, (n,); zeros where there is none."""
        if self.ngrams is None:
            return np.zeros(len(texts), dtype=np.float32)
        if self._half is None:
            tokenizer = self.text_tokenizer()
            self._half = NgramHalf(self.ngrams, tokenizer), tokenizer
        half, tokenizer = self._half
        return half.score(texts, tokenizer.encode(texts))

    def take_half(self, ngrams: Arrays | None) -> None:
        """Have these arrays as n-gram half, or none."""
        self.ngrams, self._half = ngrams, None

    def scores_and_vectors(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Rows (n, 1 + width): the network's score of each text, and the vector that gives it.

        Raises:
            InputError: a score is NaN or infinite.
        """
        rows = np.empty((len(texts), 1 + self.head.in_features), dtype=np.float32)
        for part, vectors, scores in self._read(texts, None, batch_size):
            rows[part, 0], rows[part, 1:] = scores, vectors
        return rows

    def _spec(self) -> FactSpec:
        return self.fact_spec or standardise(self.fact_names, {})

    def _read(
        self, texts: Sequence[str], known: NDArray[np.float32] | None, batch_size: int
    ) -> Iterator[tuple[list[int], NDArray[np.float32], NDArray[np.float32]]]:
        """(places of some texts, their pooled vectors, their scores)."""
        tokenizer = self.text_tokenizer()
        tokens = tokenizer.encode(texts)
        beside = self._spec().of(None, len(tokens)) if known is None else known
        return read(self.network, tokens, tokenizer.pad_id, beside, batch_size, self.device)

    def on_fit_start(self) -> None:
        """Solve the head, where it does not learn by gradients.

        Raises:
            ConfigError: several processes would each solve it, or there is no data module.
        """
        if not self.hparams.fine_tune:
            take_solved_head(self, self.trainer.datamodule, self.trainer.world_size)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor | None:
        """Loss of the pairs (or items) of one batch; none of a head that is solved."""
        if not self.hparams.fine_tune:
            return None
        outputs = self.outputs(batch.input_ids, batch.attention_mask, batch.row, batch.facts)
        labels = Labels(*(getattr(batch, field) for field in Labels._fields))
        loss = self.objective.loss(outputs, labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.input_ids))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Scores of one batch, in float32 as they will be served; loss of the network's."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Scores of one batch of the test split."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_index: int) -> tuple[Tensor, Tensor]:
        """Numbers of the prompts of one batch, and their scores."""
        facts = None
        if self.fact_head is not None:
            found = self.trainer.datamodule.facts_of(batch.prompt.cpu().numpy())
            facts = torch.from_numpy(found).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            scores = self(batch.input_ids, batch.attention_mask, facts)
        return batch.prompt, scores + self._beside_network(batch.prompt)

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of an earlier pass."""
        self._pass.begin()

    def on_test_epoch_start(self) -> None:
        """Forget the scores of an earlier pass."""
        self._pass.begin()

    def on_validation_epoch_end(self) -> None:
        """Tau over the whole split; calibration of the scores of this epoch."""
        if not self.trainer.sanity_checking:
            found = self._summarise("val")
            if self.trainer.state.fn == "fit":
                data = getattr(self.trainer, "datamodule", None)
                if data is None:
                    self.calibration = fit_calibration(found.scores, found.length, found.censored)
                else:
                    self.calibrate(found.scores, found.item, data)
                self.training_summary = self._training_summary(len(np.unique(found.group)))

    def on_test_epoch_end(self) -> None:
        """Tau over the whole split."""
        prompts = len(np.unique(self._summarise("test").prompt))
        if prompts < FEW_PROMPTS:
            log.warning(
                "Only %d prompts were tested, fewer than %d: their tau may be far off, and "
                "`pars evaluate` gives its interval.",
                prompts,
                FEW_PROMPTS,
            )

    def _evaluate(self, batch: Batch, stage: str) -> None:
        with torch.autocast(self.device.type, enabled=False):
            if self.trainer.state.fn == "fit" and self.out_of_fold is not None:
                known = torch.from_numpy(self.out_of_fold).to(self.device)
                outputs = known[batch.prompt[batch.row]].unsqueeze(1)
            else:
                outputs = self.outputs(
                    batch.input_ids, batch.attention_mask, batch.row, batch.facts
                )
            labels = Labels(*(getattr(batch, field) for field in Labels._fields))
            loss, scores = self.objective.loss(outputs, labels), self.objective.score(outputs)
        several = self.trainer.world_size > 1
        self.log(f"{stage}/loss", loss, batch_size=len(batch.input_ids), sync_dist=several)
        self._pass.add(batch, scores + self._beside_network(batch.prompt)[batch.row])

    def _beside_network(self, prompts: Tensor) -> Tensor:
        """What the n-gram half adds to the scores of these prompts of the table, (p,)."""
        if self.ngrams is None:
            return torch.zeros(len(prompts), device=prompts.device)
        known = self.trainer.datamodule.table.prompts
        found = self.half_scores([known[number] for number in prompts.tolist()])
        return torch.from_numpy(found).to(prompts.device)

    def _summarise(self, stage: str) -> ScoredItems:
        found = self._pass.items(self)
        if not np.isfinite(found.scores).all():
            raise InputError(
                f"The ranker's scores became NaN or infinite in epoch {self.current_epoch}: lower "
                f"model.lr (now {self.hparams.lr}) or use trainer.precision 32-true."
            )
        self.judge(found.scores, found.length, found.censored, found.group)
        several = self.trainer.world_size > 1  # all have the same, which Lightning cannot know
        named = {f"{stage}/{k}": v for k, v in self.metrics.items()}
        self.log_dict(named, prog_bar=True, sync_dist=several)
        return found

    def judge(
        self, scores: np.ndarray, lengths: np.ndarray, censored: np.ndarray, group: np.ndarray
    ) -> None:
        """Make `metrics` of the scores (n,) of the items of a split."""
        self.metrics = metrics_of(scores, lengths, censored, group)

    def calibrate(self, scores: np.ndarray, items: np.ndarray, data: Any) -> None:
        """Make `calibration` of the scores (n,) of validation items (n,), by all their responses.

        The items are numbers in the table of ``data``, the fit's data module.
        """
        row, lengths, censored = data.responses(items)
        self.calibration = fit_calibration(scores[row], lengths, censored)

    def _training_summary(self, groups: int) -> dict[str, Any]:
        data = getattr(self.trainer, "datamodule", None)
        plain = {k: v for k, v in self.hparams.items() if k not in LARGE_HPARAMS and k[0] != "_"}
        for name in ("encoder", "prior"):  # of a folder, its name: the path is the machine's
            if Path(plain[name]).is_dir():
                plain[name] = Path(plain[name]).resolve().name
        found = {
            "data": data.summary() if data is not None else {},
            "model": plain,
            "epochs": self.current_epoch + 1,
            "steps": self.global_step,
            "validation_groups": groups,
        }
        return found if self.out_of_fold is None else {**found, "validated": "out of fold"}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an export needs beside the weights."""
        checkpoint[CONTENT] = content_of(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back.

        Raises:
            InputError: a fit cannot go on from weights alone.
        """
        resumed = self._trainer is not None and self._trainer.state.fn == "fit"
        if resumed and "optimizer_states" not in checkpoint:
            raise InputError(
                "--ckpt_path names a checkpoint of weights alone (a best.ckpt): go on from a "
                "last.ckpt."
            )
        take_content(self, checkpoint.get(CONTENT, {}))

    def configure_optimizers(self) -> dict[str, Any] | None:
        """AdamW with a learning rate per layer; warm-up, then linear decay or none.

        A head that is solved has no optimizer.
        """
        h = self.hparams
        if not h.fine_tune:
            return None
        groups = parameter_groups(
            self.named_parameters(), h.lr, h.head_lr, h.layer_decay, h.weight_decay
        )
        # One pass over the weights: on a CPU the usual one takes a tenth of the time of a step. In
        # mixed precision Lightning refuses to clip the gradients of such an optimizer.
        fused = self.device.type in ("cpu", "cuda") and "mixed" not in str(self.trainer.precision)
        optimizer = torch.optim.AdamW(groups, fused=fused)
        steps = self.trainer.estimated_stepping_batches
        factor = learning_rate_factor(steps, h.warmup, h.schedule)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
