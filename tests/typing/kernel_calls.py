"""For mypy alone: each wrong call must be an error, or its ignore is unused, which is one too."""

import numpy as np

from autograd.kernels.gelu import bias_gelu_fwd
from autograd.kernels.layer_norm import layer_norm_fwd
from swinpy.kernels.window_attention import window_attention_fwd

x = np.ones((2, 3))

right: tuple[object, object, object] = layer_norm_fwd(x, x[0], x[0], 1e-5)
layer_norm_fwd(x, x[0], x[0])  # type: ignore[call-arg]
layer_norm_fwd(x, x[0], x[0], "eps")  # type: ignore[arg-type]
bias_gelu_fwd(x, biased=x[0])  # type: ignore[call-arg]
window_attention_fwd(x, None, None, None)  # type: ignore[call-arg]
