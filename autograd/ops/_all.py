"""Star imports of every module that holds ops; a new module gets its line here and nowhere else.

No ``__all__`` of its own: a type checker follows star imports, but no list that is put together from others.
"""

from autograd.ops.conv import *  # noqa: F403
from autograd.ops.dropout import *  # noqa: F403
from autograd.ops.elementwise import *  # noqa: F403
from autograd.ops.indexing import *  # noqa: F403
from autograd.ops.joining import *  # noqa: F403
from autograd.ops.linalg import *  # noqa: F403
from autograd.ops.logic import *  # noqa: F403
from autograd.ops.losses import *  # noqa: F403
from autograd.ops.mlp import *  # noqa: F403
from autograd.ops.nn import *  # noqa: F403
from autograd.ops.norms import *  # noqa: F403
from autograd.ops.patches import *  # noqa: F403
from autograd.ops.reduce import *  # noqa: F403
from autograd.ops.resize import *  # noqa: F403
from autograd.ops.shaping import *  # noqa: F403
