"""The copies of a model that attacks run on; nothing here changes the model itself."""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# What torch.fx raises on a forward pass that it cannot trace; such a model is attacked unfolded.
UNTRACEABLE = (fx.proxy.TraceError, TypeError, ValueError, NameError, AttributeError, RuntimeError)
FOLDING_TOLERANCE = 1e-3  # as a share of the logits' spread; float32 noise is a hundred times smaller


def frozen(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode whose parameters require no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def folded(plain: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a frozen model, in channels_last, with every batch norm folded into the convolution before it.

    Folding makes a forward and backward pass 1.2 to 1.5 times as fast and changes the logits by float32 noise only.
    The copy stays unfolded if torch.fx cannot trace the model, or if the folded model gives other logits on `example`
    (a forward pass that depends on hooks, for instance).

    Args:
        plain: what `frozen` returned; it is not changed.
        example: images (N, C, H, W) in [0, 1] on the model's device, one or a few.
    """
    fast = _folded_or_none(plain, example)
    return (copy.deepcopy(plain) if fast is None else fast).to(memory_format=torch.channels_last)


def _folded_or_none(plain: nn.Module, example: Tensor) -> nn.Module | None:
    try:
        fast = _fold(copy.deepcopy(plain))
        folded = fast(example)
    except UNTRACEABLE:
        return None
    wanted = plain(example)
    spread = wanted.amax() - wanted.amin()
    same = folded.shape == wanted.shape and (folded - wanted).abs().amax() <= FOLDING_TOLERANCE * spread
    return fast if same else None


def _fold(model: nn.Module) -> fx.GraphModule:
    """Merge each conv with the batch norm that alone reads it into one conv; both must be called once."""
    traced = fx.symbolic_trace(model)
    modules = dict(traced.named_modules())
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        norm = modules[node.target] if node.op == "call_module" else None
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
            continue
        before = node.args[0]
        if before.op != "call_module" or not isinstance(modules[before.target], nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        if len(before.users) > 1 or calls.count(node.target) > 1 or calls.count(before.target) > 1:
            continue
        fused = fuse_conv_bn_eval(modules[before.target], norm)
        parent, _, name = before.target.rpartition(".")
        setattr(modules[parent], name, fused)
        modules[before.target] = fused
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
    return traced.requires_grad_(False)
