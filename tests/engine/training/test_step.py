"""The training step against PyTorch: the same network, weights and batches give the same losses and updates."""

import jax
import numpy as np
import pytest

from equipoise.engine import mesh, models
from equipoise.engine.config import Run
from equipoise.engine.training.step import init_state, make_train_step
from equipoise.engine.update import optim
from equipoise.tasks.kinds.classification import Classification

torch = pytest.importorskip(
    "torch", reason="PyTorch is the peer of this test: pip install 'equipoise[bench]'"
)

SHAPES = {2: (12, 10), 3: (8, 10, 12)}
WIDTHS, BATCH, STEPS = (4, 6), 6, 4


def run(optimizer):
    config = Run(seed=1)
    config.data.preprocess = ""
    config.model.args = {"features": WIDTHS}
    config.optimizer.learning_rate = 1e-2
    config.data.batch_size = BATCH
    for name, value in optimizer.items():
        setattr(config.optimizer, name, value)
    return config


class Twin(torch.nn.Module):
    """The same network in PyTorch's own layers and layout."""

    def __init__(self, params, dimensions):
        super().__init__()
        nn = torch.nn
        conv, norm, self.pool = (
            (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d(2))
            if dimensions == 3
            else (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d(2))
        )
        widths = (1, *WIDTHS)
        self.convs = nn.ModuleList(
            conv(a, b, 3, padding=1, bias=False) for a, b in zip(widths, WIDTHS, strict=False)
        )
        self.norms = nn.ModuleList(norm(width) for width in WIDTHS)
        self.head = nn.Linear(WIDTHS[-1], 2)
        with torch.no_grad():
            for number, layer in enumerate(self.convs, start=1):
                kernel = np.asarray(params[f"conv{number}"]["kernel"])
                layer.weight.copy_(torch.from_numpy(np.moveaxis(kernel, (-1, -2), (0, 1)).copy()))
            self.head.weight.copy_(torch.from_numpy(np.asarray(params["head"]["kernel"]).T.copy()))
            self.head.bias.copy_(torch.from_numpy(np.asarray(params["head"]["bias"]).copy()))

    def forward(self, x):
        x = torch.movedim(x, -1, 1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.pool(torch.relu(norm(conv(x))))
        return self.head(x.flatten(2).mean(2))


def torch_optimizer(twin, config):
    rate, decay = config.optimizer.learning_rate, config.optimizer.weight_decay
    plain = [p for n, p in twin.named_parameters() if "norms" in n or n.endswith("bias")]
    decayed = [p for n, p in twin.named_parameters() if not ("norms" in n or n.endswith("bias"))]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    if config.optimizer.name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config.optimizer.momentum)
    return torch.optim.AdamW(groups, lr=rate)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "adamw", "weight_decay": 0.1},
        {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.05},
        {"name": "adamw", "weight_decay": 0.0, "accumulate": 2},
    ],
    ids=["adamw", "sgd clipped", "accumulated"],
)
def test_training_is_pytorchs(dimensions, optimizer, rng):
    config = run(optimizer)
    parts = config.optimizer.accumulate
    task = Classification("sex", ("F", "M"), "M")
    runner = mesh.make_runner(config)
    model = models.build("cnn", num_outputs=2, **config.model.args)
    state = runner.replicate(
        init_state(config, model, optim.make(config.optimizer), (*SHAPES[dimensions], 1))
    )
    twin = Twin(jax.device_get(state.params), dimensions)
    peer = torch_optimizer(twin, config)
    step = runner.train(make_train_step(config, model, task, optim.make(config.optimizer)))
    for _ in range(STEPS):
        image = rng.normal(size=(BATCH, *SHAPES[dimensions], 1)).astype(np.float32)
        target = rng.integers(0, 2, BATCH).astype(np.int32)
        batch = {
            "image": image,
            "target": target,
            "scale": np.tile(np.float32([1, 0]), (BATCH, 1)),
            "weight": np.ones(BATCH, np.float32),
            "position": np.arange(BATCH, dtype=np.int32),
        }
        state, metrics = step(state, runner.shard(batch))
        peer.zero_grad()
        total = 0.0
        for part in range(parts):
            output = twin(torch.from_numpy(image[part::parts]))
            loss = torch.nn.functional.cross_entropy(output, torch.from_numpy(target[part::parts]).long())
            (loss / parts).backward()
            total += loss.item() / parts
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), config.optimizer.clip_norm or np.inf)
        peer.step()
        assert float(metrics["loss"]) == pytest.approx(total, rel=2e-4)
        assert float(metrics["grad_norm"]) == pytest.approx(norm.item(), rel=2e-3)
    ours = np.asarray(state.params["head"]["kernel"])
    np.testing.assert_allclose(ours, twin.head.weight.detach().numpy().T, atol=5e-4)
    mean = np.asarray(state.batch_stats["norm1"]["mean"])
    np.testing.assert_allclose(mean, twin.norms[0].running_mean.numpy(), atol=1e-4)
