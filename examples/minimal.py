"""Train a small Swin Transformer on pictures that the program draws itself, with the whole training step in sight.

    pip install .
    python examples/minimal.py

It takes less than a minute on two cores. For the full recipe, with options and snapshots, see examples/train_cifar.py.
"""

import argparse

import numpy as np

import autograd as ag
import swinpy
from swinpy.data import generate
from swinpy.train.optim import AdamW

TRAIN, TEST, BATCH, PEAK_RATE = 6000, 1000, 64, 2e-3

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--max-steps", type=int, default=300, help="training steps (default %(default)s)")
steps = parser.parse_args().max_steps

scenes = generate(seed=0, indices=range(TRAIN + TEST))  # 8-bit pictures (N, 3, 32, 32), ten classes of shapes
images = scenes.images.astype(np.float32) / 64 - 2  # to about -2 ... 2
labels = scenes.labels

ag.manual_seed(0)
model = swinpy.create_model("swin_cifar_nano", num_classes=10).train()
optimizer = AdamW(model.named_parameters(), model.no_weight_decay())
rng = np.random.default_rng(0)

for step in range(steps):
    batch = rng.integers(0, TRAIN, BATCH)
    optimizer.zero_grad()
    logits = model(images[batch])
    loss = ag.cross_entropy(logits, labels[batch])
    loss.backward()  # fills p.grad for every parameter p
    optimizer.step(lr=PEAK_RATE * (1 - step / steps), clip_grad=5.0)
    if step % 50 == 0 or step == steps - 1:
        print(f"step {step:3d}   loss {loss.item():.3f}", flush=True)

model.eval()
with ag.no_grad():
    answers = np.concatenate([model(images[i : i + 100]).numpy().argmax(1) for i in range(TRAIN, TRAIN + TEST, 100)])
print(f"{100 * (answers == labels[TRAIN:]).mean():.1f}% of {TEST} test pictures are named right")
