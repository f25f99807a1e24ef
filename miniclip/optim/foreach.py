"""torch's operations over lists of tensors, one kernel for many.

torch has no public names for them. Tried with torch 2.14.
"""

import torch

add_ = torch._foreach_add_
copy_ = torch._foreach_copy_
div = torch._foreach_div
div_ = torch._foreach_div_
mul = torch._foreach_mul
mul_ = torch._foreach_mul_
norm = torch._foreach_norm
