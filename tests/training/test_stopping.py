"""A run stopped by a scheduler resumes without a difference; one that cannot continue saves the reason."""

import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.errors import CheckpointError, TrainingError
from medvit.stage import Run
from medvit.tracking import Tracker
from medvit.training.failed_step import load_stopped, main, replay, report, rows_of, tensors_of
from medvit.training.lightning_module import TrainingModule
from medvit.training.resume import Position, position_of
from medvit.types import Batch, Views
from pipelines.finetune import finetune
from pipelines.pretrain import PretrainConfig, assemble, pretrain
from tests.processes.forked import forked_command
from tests.training.test_runs import card_without_cost, finetune_options, pretrain_options, same_weights

ROUNDS = {"epochs": 2, "steps_per_epoch": 4, "precision": "32-true", "accumulate": 2}
FROZEN_AT_FIRST = {"trainer": ROUNDS, "optim": {"freeze": 0.25, "ramp": 0.5}}


def stop_politely(stage, monkeypatch, number, step: int, batch: int = 0, **options) -> None:
    """Sends a signal in the middle of a forward pass."""
    seeded = TrainingModule.on_train_batch_start

    def signaled(module, views, batch_idx):
        seeded(module, views, batch_idx)
        if module.global_step == step and batch_idx % 2 == batch:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "on_train_batch_start", signaled)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            stage(**options)


@pytest.fixture(scope="module")
def whole(volumes, tmp_path_factory) -> Checkpoint:
    """A run without a signal."""
    folder = tmp_path_factory.mktemp("whole") / "whole"
    return pretrain(output=folder, **pretrain_options(volumes, **FROZEN_AT_FIRST))


@pytest.mark.parametrize(
    ("number", "step", "batch", "position"),
    [
        (signal.SIGTERM, 1, 0, Position(0, 4)),  # while gradients are added up
        (signal.SIGUSR1, 1, 1, Position(0, 4)),
        (signal.SIGTERM, 3, 1, Position(1, 0)),  # in the last step of an epoch
        (signal.SIGTERM, 6, 0, Position(1, 6)),
    ],
)
def test_a_pretraining_stopped_at_any_step_goes_on_bit_for_bit(
    volumes, whole, tmp_path, monkeypatch, number, step, batch, position
):
    options = pretrain_options(volumes, **FROZEN_AT_FIRST)
    before = signal.getsignal(number)
    stop_politely(pretrain, monkeypatch, number, step, batch, output=tmp_path / "cut", **options)
    assert signal.getsignal(number) == before
    assert position_of(tmp_path / "cut.partial" / "last.ckpt") == position
    resumed = pretrain(output=tmp_path / "cut", resume=True, **options)
    assert same_weights(Checkpoint.load(whole.folder), Checkpoint.load(resumed.folder))
    one, other = (card_without_cost(made.folder) for made in (whole, resumed))
    assert one == other


def test_a_finetuning_stopped_in_the_middle_of_a_round_goes_on_bit_for_bit(volumes, tmp_path, monkeypatch):
    options = finetune_options(volumes, trainer=ROUNDS)
    whole = finetune(output=tmp_path / "whole", **options)
    stop_politely(finetune, monkeypatch, signal.SIGTERM, 5, output=tmp_path / "cut", **options)
    assert position_of(tmp_path / "cut.partial" / "last.ckpt") == Position(1, 4)
    resumed = finetune(output=tmp_path / "cut", resume=True, **options)
    assert same_weights(Checkpoint.load(whole.folder), Checkpoint.load(resumed.folder))


def test_the_command_ends_as_interrupted_and_its_resume_is_exact(volumes, tmp_path):
    options = pretrain_options(volumes, trainer={"epochs": 2, "steps_per_epoch": 30, "precision": "32-true"})
    whole = pretrain(output=tmp_path / "whole", **options)
    config = PretrainConfig.parse({"output": tmp_path / "cut", **options})
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    with forked_command("pretrain", str(tmp_path / "run.yaml")) as process:
        while not (tmp_path / "cut.partial" / "last.ckpt").exists() and process.poll() is None:
            time.sleep(0.005)
        process.send(signal.SIGTERM)
    if process.status == 0:
        pytest.skip("the run was over before the signal came")
    assert process.status == 130, process.errors
    assert "interrupted; the same command with resume=true continues" in process.errors
    resumed = pretrain(output=tmp_path / "cut", resume=True, **options)
    assert same_weights(Checkpoint.load(whole.folder), Checkpoint.load(resumed.folder))


@pytest.fixture(scope="module")
def stopped(volumes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    options = pretrain_options(volumes, optim={"lr": 1e30, "clip": 1e30}, output=folder / "out")
    with pytest.raises(TrainingError) as caught:
        pretrain(**options)
    (path,) = (folder / "out.partial").glob("stopped-step-*.safetensors")
    return path, str(caught.value), options


def test_a_loss_that_is_no_number_names_step_rows_and_term_and_keeps_the_batch(stopped):
    path, message, _ = stopped
    saved = load_stopped(path)
    assert f"at step {saved.step} (reconstruction nan; rows {', '.join(saved.rows)})" in message
    assert saved.tensors["crops"].shape == (1, 2, 1, 16, 16, 16)
    assert all(torch.isfinite(weight).all() for weight in saved.weights.values())
    lines = "\n".join(report(saved))
    assert "0 not finite" in lines
    assert "non-finite weights: none" in lines
    assert "largest weight: " in lines


def test_the_step_that_failed_can_be_done_again_and_fails_alike(stopped, tmp_path):
    path, _, options = stopped
    saved = load_stopped(path)
    parts = assemble(PretrainConfig.parse(options), Run("look", tmp_path, Tracker()))
    batch = replay(parts.module, next(iter(parts.loader)), saved)
    assert torch.equal(batch.crops, saved.tensors["crops"])
    terms = parts.module.objective(batch, 0.0).terms
    assert not torch.isfinite(terms["reconstruction"])


def test_a_gradient_that_is_no_number_stops_the_step_too(volumes, tmp_path, monkeypatch):
    from medvit.objectives.mae import Mae

    forward = Mae.forward

    def poisoned(self, views, progress):
        losses = forward(self, views, progress)
        # The root has no slope at zero: the loss is finite, its gradient is not.
        zero = (self.mask_token * 0.0).square().sum().sqrt()
        return replace(losses, terms={**losses.terms, "root": zero})

    monkeypatch.setattr(Mae, "forward", poisoned)
    with pytest.raises(TrainingError, match=r"the norm of the gradient is nan at step 0 \(reconstruction .*root 0"):
        pretrain(output=tmp_path / "out", **pretrain_options(volumes))


def test_a_person_reads_what_a_stopped_step_held(stopped, capsys):
    assert main([str(stopped[0])]) == 0
    assert "crops (1, 2, 1, 16, 16, 16): " in capsys.readouterr().out
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_a_file_that_is_no_stopped_step_is_refused(tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    assert main([str(tmp_path / "x.safetensors")]) == 1
    assert "does not contain a failed step" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="does not contain a failed step"):
        load_stopped(tmp_path / "x.safetensors")


def test_rows_and_tensors_of_both_kinds_of_batch():
    views = Views(torch.zeros(1, 2, 1, 4, 4), local=torch.ones(3, 2, 1, 2, 2), studies=("s-1", "s-2"))
    assert set(tensors_of(views)) == {"crops", "local"}
    assert rows_of(views) == ("s-1", "s-2")
    assert set(tensors_of(Batch(torch.zeros(2, 1, 4, 4), torch.zeros(2)))) == {"pixels", "targets"}
