"""The paper's comparison: GANomaly against AnoGAN, EGBAD, an adversarial autoencoder and what needs no network.

- `experiments`: what is run, as data, and how it becomes jobs
- `jobs`: one job after the other, each kept on disk when it is finished
- `comparators`: the methods of other papers; `aae`, `anogan`, `egbad`: one each
- `tables`, `figures`: what people look at, made of finished jobs
"""
