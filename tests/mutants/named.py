"""The errors that must be noticed, each in one line: what people have got wrong in this method or could."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NamedError:
    """One error."""

    name: str
    area: str
    """See `AREAS`: its file and its tests."""
    piece: str
    """Stands exactly once in the file."""
    replacement: str


NAMED: tuple[NamedError, ...] = (
    NamedError(
        "the last step saved",
        "fold",
        "save_student(student, folder.student)",
        "load_weights(student, __import__('torch').load(folder.checkpoint)['weights']) or "
        "save_student(student, folder.student)",
    ),
    NamedError(
        "the last step evaluated and saved",
        "fold",
        "load_weights(student, records[-1].outcome.weights)",
        "pass",
    ),
    NamedError(
        "a dead valley ignored",
        "stage",
        "self.ended_early = self.averager.after_evaluation(step, cross_entropy)",
        "self.averager.after_evaluation(step, cross_entropy)",
    ),
    NamedError(
        "a dead valley averaged on",
        "swad",
        "self.is_dead = True",
        "pass",
    ),
    NamedError(
        "a dead valley forgotten at resume by the stage",
        "stage",
        'self.next_step, self.ended_early = state["next_step"], state["ended_early"]',
        'self.next_step = state["next_step"]',
    ),
    NamedError(
        "a dead valley forgotten at resume by SWAD",
        "swad",
        'self.is_dead = state["is_dead"]',
        "pass",
    ),
    NamedError(
        "SWAD's numbers ignored",
        "fold",
        "swad = setup.hyperparameters.swad",
        "swad = type(setup.hyperparameters.swad)(segments=setup.hyperparameters.swad.segments)",
    ),
    NamedError(
        "SWAD's num_converge ignored",
        "swad",
        "maxlen=settings.num_converge",
        "maxlen=3",
    ),
    NamedError(
        "SWAD's num_tolerate ignored",
        "swad",
        "maxlen=settings.num_tolerate",
        "maxlen=6",
    ),
    NamedError(
        "SWAD's tolerance_ratio ignored",
        "swad",
        "self.settings.tolerance_ratio",
        "0.3",
    ),
    NamedError(
        "Align with Distill's settings",
        "stage inputs",
        'hyperparameters.align if stage.name == "align" else hyperparameters.distill',
        "hyperparameters.distill",
    ),
    NamedError(
        "Align with Distill's number of steps",
        "schedule",
        "= getattr(hyperparameters, stage)",
        "= hyperparameters.distill",
    ),
    NamedError(
        "Align with Distill's optimiser",
        "update",
        "stage_settings(stage, inputs.hyperparameters)",
        "inputs.hyperparameters.distill",
    ),
    NamedError(
        "accuracy weighted by images",
        "evaluation",
        "sum(score.accuracy for score in scores.values()) / len(scores)",
        "sum(s.accuracy * s.num_images for s in scores.values()) / sum(s.num_images for s in scores.values())",
    ),
    NamedError(
        "cross-entropy weighted by images",
        "evaluation",
        "sum(score.cross_entropy for score in scores.values()) / len(scores)",
        "sum(s.cross_entropy * s.num_images for s in scores.values()) / sum(s.num_images for s in scores.values())",
    ),
    NamedError("DomainNet's steps", "benchmarks", "num_steps=15001", "num_steps=5001"),
    NamedError("DomainNet's interval", "benchmarks", "evaluate_every=1000", "evaluate_every=200"),
    NamedError("DomainNet's evaluation batch", "benchmarks", "eval_batch_size=64", "eval_batch_size=128"),
    NamedError(
        "DomainNet's batch in the search",
        "spaces",
        '5.0 if benchmark.name == "DomainNet" else 5.5',
        "5.5",
    ),
    NamedError("AdamW", "speed", "return torch.optim.Adam(", "return torch.optim.AdamW("),
    NamedError(
        "weight decay ignored",
        "speed",
        "weight_decay=settings.weight_decay",
        "weight_decay=0.0",
    ),
    NamedError("seed hash mod 2^32", "splits", "16) % 2**31", "16) % 2**32"),
    NamedError(
        "split seed order swapped",
        "splits",
        "seed_hash(seed, domain_index)",
        "seed_hash(domain_index, seed)",
    ),
    NamedError(
        "logit scale dropped in kd",
        "recipes",
        "zero_shot_logits(step.teacher_images, step.texts, step.logit_scale)",
        "zero_shot_logits(step.teacher_images, step.texts, 1.0)",
    ),
    NamedError(
        "logit scale of every teacher 1",
        "fold setup",
        "self.teacher.logit_scale if self.teacher is not None else 1.0",
        "1.0",
    ),
    NamedError(
        "oracle scored on the chosen weights",
        "fold",
        '{"last_step": last_step}',
        '{"last_step": test}',
    ),
    NamedError(
        "80% and 20% of the sources swapped",
        "splits",
        "source_train[domain], source_validation[domain] = training, validation",
        "source_train[domain], source_validation[domain] = validation, training",
    ),
    NamedError(
        "80% and 20% of the test domain swapped",
        "splits",
        "test_in[domain], test_out[domain] = training, validation",
        "test_in[domain], test_out[domain] = validation, training",
    ),
    NamedError(
        "80% and 20% of the test domain scored the other way round",
        "fold",
        "inner = setup.score(predictor, setup.splits.test_in)",
        "inner = setup.score(predictor, setup.splits.test_out)",
    ),
    NamedError(
        "ID accuracy of the best evaluation",
        "fold",
        "accuracy, cross_entropy = mean_accuracy(validation), mean_cross_entropy(validation)",
        'accuracy, cross_entropy = chosen.get("best_accuracy", mean_accuracy(validation)), '
        "mean_cross_entropy(validation)",
    ),
    NamedError(
        "ID accuracy of the last step",
        "fold",
        "    load_weights(student, records[-1].outcome.weights)\n"
        "    validation = setup.score(predictor, setup.splits.source_validation)\n",
        "    validation = setup.score(predictor, setup.splits.source_validation)\n"
        "    load_weights(student, records[-1].outcome.weights)\n",
    ),
    NamedError(
        "uneven shares",
        "update",
        "share = len(batch.labels) / batch.global_size",
        "share = 1 / inputs.workers.size",
    ),
    NamedError(
        "uneven shares of a batch in pieces",
        "update",
        "loss * (len(piece_labels) / len(labels))",
        "loss / count",
    ),
    NamedError(
        "student left in eval mode after an evaluation",
        "stage",
        "scores = self.inputs.validate()\n        self.inputs.student.train()\n",
        "scores = self.inputs.validate()\n",
    ),
    NamedError(
        "student in training mode at an evaluation",
        "fold setup",
        "            student.eval()\n            return self.score(predict, self.splits.source_validation)",
        "            return self.score(predict, self.splits.source_validation)",
    ),
    NamedError("student in training mode at the end", "fold", "    student.eval()\n", ""),
    NamedError("teacher not in eval mode", "clip", "model.eval().requires_grad_(False)", "model.requires_grad_(False)"),
    NamedError(
        "absent classes counted in balanced accuracy",
        "evaluation",
        "(correct_C[present] / count_C[present]).mean()",
        "(correct_C / count_C.clamp(min=1.0)).mean()",
    ),
    NamedError(
        "dropout mask equal in every step",
        "update",
        'derived_seed("step", inputs.seed, self.stage.name, step, inputs.workers.rank)',
        'derived_seed("step", inputs.seed, self.stage.name, inputs.workers.rank)',
    ),
    NamedError(
        "dropout mask equal for every worker",
        "update",
        'derived_seed("step", inputs.seed, self.stage.name, step, inputs.workers.rank)',
        'derived_seed("step", inputs.seed, self.stage.name, step)',
    ),
    NamedError(
        "dropout mask equal for every seed",
        "update",
        'derived_seed("step", inputs.seed, self.stage.name, step, inputs.workers.rank)',
        'derived_seed("step", self.stage.name, step, inputs.workers.rank)',
    ),
    NamedError("BatchNorm trained", "student", "isinstance(module, nn.modules.batchnorm._BatchNorm)", "False"),
    NamedError("text of another class", "recipes", "step.texts[step.labels]", "step.texts[step.labels - 1]"),
    NamedError(
        "seeds of views shared by domains",
        "view seeds",
        '_digest("view", seed, stage, step, domain_index, position)',
        '_digest("view", seed, stage, step, position)',
    ),
)
