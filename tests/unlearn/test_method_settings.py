"""What the settings of the methods may be, and what of them is searched."""

from amun_ray.unlearn import METHODS, Setting


def test_settings_are_searchable():
    for name, method in METHODS.items():
        for key, setting in method.settings.items():
            assert setting.low < setting.high, (name, key)
            assert all(setting.problem(value) is None for value in (setting.low, setting.high, setting.default))
            assert setting.low > 0 or not setting.log, (name, key)


FROM_0, SHARE, SWITCH = ((-1e-9,), (0, 1e9)), ((0, 1.001), (1e-9, 1)), ((-1, 0.5, 2), (0, 1))
RULES = {  # of each setting: values that are refused, and values that are not
    **dict.fromkeys(("alpha", "gamma", "max_epochs", "noise", "loss_power", "threshold", "step", "damping", "scale",
                     "sigma", "distance", "hessian_lipschitz"), FROM_0),
    **dict.fromkeys(("mask_ratio", "bound", "retain_weight"), SHARE), "unseen_accuracy": ((-0.1, 1.1), (0, 1)),
    "delta": ((0, 0.501), (1e-9, 0.5)),
    **dict.fromkeys(("forget_statistics", "adversarial", "compounded"), SWITCH),
    "labelled_by": ((-1, 3), (0, 1, 2)), "steps": ((0.999,), (1, 1e9)),
    "temperature": ((0,), (1e-9, 1e9)),
    "l1_sparse.decay_epochs": ((0.999,), (1, 1e9)), "sfr_on.decay_epochs": ((0,), (1e-9, 1e9))}


def test_what_a_setting_may_be():
    for name, method in METHODS.items():
        for key, setting in method.settings.items():
            refused, allowed = RULES.get(f"{name}.{key}") or RULES[key]
            assert [value for value in (*refused, *allowed) if setting.problem(value)] == [*refused], (name, key)


def test_choices_are_the_only_values():
    setting = Setting(default=1, low=1, high=3, choices=(1, 3))
    assert setting.problem(3) is None
    assert setting.problem(2) == "must be one of 1, 3, but got 2"
