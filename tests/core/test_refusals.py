"""What makes no sense together is refused when a config is checked, with the line and the reason, and in Python too."""

from __future__ import annotations

import subprocess
import sys
from typing import ClassVar

import pytest
import torch
from support.places import ROOT
from torch import Tensor

import sgm_core as sgm
from sgm_core.config.check import Checker
from sgm_core.config.reader import Objects
from sgm_core.config.schema import Component
from sgm_core.config.tree import ConfigError, parse
from sgm_core.refusals import UNTOLD, ConditionError, check_refusals, condition, show
from sgm_core.roles import Coefficients, Scaling
from sgm_plugins.denoisers import DiscreteDenoiser
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.losses.standard import StandardLoss
from sgm_plugins.scalings import EDMScaling, EpsScaling, VScaling, VScalingEDMNoise
from sgm_plugins.sigma_samplers import EDMSigmaSampler
from sgm_plugins.tools.catalog.source.reader import Sources
from sgm_plugins.weightings import EDMWeighting

DIGITS = ROOT / "configs" / "digits.yaml"


def problems(kind: str, text: str, reader) -> list[str]:
    checker = Checker(reader)
    checker.check(parse(text, "c.yaml"), Component(kind), "part")
    return [str(problem) for problem in checker.problems.found]


REFUSED = [
    ("denoisers", "use: discrete\nscaling: edm\ndiscretization: legacy_ddpm", "2:10 part.scaling", "a logarithm"),
    ("denoisers", "{use: discrete, scaling: v_edm_noise, discretization: edm}", "1:26 part.scaling", "a logarithm"),
    (
        "denoisers",
        "{use: discrete, scaling: {use: edm, sigma_data: 1}, discretization: edm, quantize_c_noise: true}",
        "1:26 part.scaling",
        "set quantize_c_noise: false",
    ),
    (
        "denoisers",
        "{use: discrete, scaling: eps, discretization: legacy_ddpm, num_idx: 1001}",
        "1:69 part.num_idx",
        "num_idx is 1001, and the discretization has 1000 levels",
    ),
    (
        "denoisers",
        "{use: discrete, scaling: eps, discretization: {use: legacy_ddpm, num_timesteps: 999}}",
        "1:47 part.discretization",
        "num_idx is 1000, and the discretization has 999 levels",
    ),
    (
        "sigma_samplers",
        "{use: discrete, discretization: {use: legacy_ddpm, num_timesteps: 10}, num_idx: 11}",
        "1:81 part.num_idx",
        "has 10 levels",
    ),
    ("samplers", "{use: heun_edm, discretization: legacy_ddpm, num_steps: 2000}", "1:57 part.num_steps", "1000 levels"),
    ("samplers", "{use: substep, discretization: legacy_ddpm, num_levels: 1001}", "1:57 part.num_levels", "has 1000"),
    ("samplers", "{use: substep, discretization: edm, num_levels: 3, num_steps: 4}", "1:63 part.num_steps", "has 3"),
    ("losses", "{use: standard, sigma_sampler: edm, weighting: v, loss_type: lpips}", "1:62 part.loss_type", "needs"),
    (
        "losses",
        "{use: standard, sigma_sampler: edm, weighting: v, perceptual: {features: {weights: a}, heads: uniform}}",
        "1:63 part.perceptual",
        "loss_type is 'l2'",
    ),
]  # fmt: skip


@pytest.mark.parametrize("reader", [Sources, Objects])
@pytest.mark.parametrize(("kind", "text", "where", "reason"), REFUSED)
def test_a_check_refuses_it_with_the_place_and_the_reason(kind, text, where, reason, reader):
    [problem] = [found for found in problems(kind, text, reader()) if found.startswith(f"c.yaml:{where}: ")]
    assert reason in problem


ALLOWED = [
    ("denoisers", "{use: discrete, scaling: edm, discretization: edm, quantize_c_noise: false}"),
    ("denoisers", "{use: discrete, scaling: v, discretization: legacy_ddpm}"),
    ("denoisers", "{use: continuous, scaling: edm}"),
    ("denoisers", "{use: discrete, scaling: eps, discretization: edm, num_idx: 5000}"),
    ("samplers", "{use: heun_edm, discretization: legacy_ddpm, num_steps: 1000}"),
    ("samplers", "{use: heun_edm, discretization: legacy_ddpm}"),
]


@pytest.mark.parametrize("reader", [Sources, Objects])
@pytest.mark.parametrize(("kind", "text"), ALLOWED)
def test_what_makes_sense_is_not_refused(kind, text, reader):
    assert problems(kind, text, reader()) == []


def test_the_command_names_the_line_and_imports_no_component(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        DIGITS.read_text().replace(
            "denoiser: {use: continuous, scaling: {use: edm, sigma_data: 0.5}}",
            "denoiser:\n    use: discrete\n    scaling: edm\n    discretization: legacy_ddpm",
        )
    )
    code = "import sys\nfrom sgm_core.cli.app import main\nprint(main(['check', sys.argv[1]]), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "1 False"
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if text == "    scaling: edm")
    assert done.stderr.startswith(f"{file}:{line}:14 model.denoiser.scaling: denoiser 'discrete'")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("scaling", [EDMScaling(), VScalingEDMNoise()])
def test_python_is_refused_a_quantised_logarithm(scaling):
    with pytest.raises(ValueError, match="a logarithm of sigma"):
        DiscreteDenoiser(scaling, LegacyDDPMDiscretization())
    DiscreteDenoiser(scaling, LegacyDDPMDiscretization(), quantize_c_noise=False)


@pytest.mark.parametrize("scaling", [EpsScaling(), VScaling(), EDMScaling(), VScalingEDMNoise()])
def test_a_scaling_says_truly_whether_its_c_noise_is_a_logarithm(scaling):
    sigma = torch.tensor([0.5, 1.0, 2.0, 4.0])
    steps = scaling(sigma).c_noise.diff()
    assert scaling.log_c_noise == torch.allclose(steps, steps[0].expand(3))  # equal steps for equal ratios


def test_python_is_refused_a_loss_without_its_distance():
    with pytest.raises(ValueError, match="'lpips' needs one"):
        StandardLoss(EDMSigmaSampler(), EDMWeighting(), "lpips")
    with pytest.raises(ValueError, match="loss_type is 'l1'"):
        StandardLoss(EDMSigmaSampler(), EDMWeighting(), "l1", perceptual=torch.nn.Identity())


# --- components of others ------------------------------------------------------------------------------------------

OTHERS = '''
from typing import ClassVar
from sgm_core.roles import Coefficients, Denoiser, Scaling

class LogSNR(Scaling):
    """c_noise is ln(1 / sigma^2)."""

    log_c_noise: ClassVar[bool] = True

    def __call__(self, sigma):
        return Coefficients(sigma, sigma, sigma, -2 * sigma.log())


class Picky(Denoiser):
    """Takes small numbers only."""

    refuses: ClassVar[dict[str, str]] = {
        "n > 3 and not brave": "n is {n}; more than 3 need brave: true",
        "scaling.sigma_data == 0.5": "sigma_data {scaling.sigma_data} is not for this one",
    }

    def __init__(self, scaling: Scaling, n: int = 4, brave: bool = False) -> None:
        super().__init__()

    def forward(self, network, x, sigma, cond):
        return x


class Broken(Picky):
    """Declares what is no condition."""

    refuses = {"print(n)": "never"}
'''


@pytest.fixture
def others(make_distribution):
    """A distribution of somebody else's."""
    make_distribution(
        "sgm-others",
        {
            "sgm.scalings": {"log_snr": "others_parts:LogSNR"},
            "sgm.denoisers": {"picky": "others_parts:Picky", "broken": "others_parts:Broken"},
        },
        {"others_parts.py": OTHERS},
    )


@pytest.mark.parametrize("reader", [Sources, Objects])
@pytest.mark.usefixtures("others")
def test_others_declare_the_same_way(reader):
    [problem] = problems("denoisers", "{use: discrete, scaling: log_snr, discretization: edm}", reader())
    assert "c.yaml:1:26 part.scaling" in problem
    assert "a logarithm" in problem
    [number, data] = problems("denoisers", "{use: picky, scaling: edm}", reader())
    assert number.endswith("n is 4; more than 3 need brave: true")
    assert number.startswith("c.yaml:1:1 part: denoiser 'picky'")  # n is a default: nothing of the text is to blame
    assert data.startswith("c.yaml:1:23 part.scaling")
    assert data.endswith("sigma_data 0.5 is not for this one")
    assert problems("denoisers", "{use: picky, scaling: v, n: 5, brave: true}", reader()) == []


@pytest.mark.parametrize("reader", [Sources, Objects])
@pytest.mark.usefixtures("others")
def test_a_condition_that_is_none_is_the_components_fault(reader):
    [problem] = problems("denoisers", "{use: broken, scaling: v}", reader())
    assert "the component is broken, in `refuses`: 'print(n)' is no condition" in problem


@pytest.mark.usefixtures("others")
def test_a_built_object_in_a_config_is_looked_into():
    spec = {"use": "discrete", "scaling": EDMScaling(), "discretization": EDMDiscretization()}
    with pytest.raises(ConfigError, match="a logarithm"):
        sgm.build("denoisers", spec)


# --- conditions ----------------------------------------------------------------------------------------------------

VALUES = {"n": 3, "none": None, "text": "a", "part.size": 2, "zero": 0}


def look(name: str):
    return VALUES.get(name, UNTOLD)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("n > part.size", True),
        ("n <= part.size", False),
        ("none is None", True),
        ("n is not None and text == 'a'", True),
        ("not zero", True),
        ("zero or n != 3", False),
        ("zero or n >= 3", True),
        ("n > unknown", False),
        ("not n > unknown", False),
        ("unknown or n == 3", True),
        ("unknown and n == 3", False),
        ("unknown", False),
        ("n < text", False),
        ("none < 3", False),
    ],
)
def test_a_condition_holds_only_where_that_is_certain(text, holds):
    assert condition(text).holds(look) is holds


@pytest.mark.parametrize("text", ["", "n >", "f(n)", "n + 1 > 2", "a.b.c", "1 < n < 3", "n if n else n", "n in [1]"])
def test_anything_else_is_no_condition(text):
    with pytest.raises(ConditionError, match="is no condition"):
        condition(text)


def test_a_reason_shows_values_that_are_told():
    assert show("{n} of {part.size}, {unknown}", look) == "3 of 2, {unknown}"


def test_a_subclass_refuses_what_its_base_refuses():
    class Table(DiscreteDenoiser):
        pass

    with pytest.raises(ValueError, match="a logarithm"):
        Table(EDMScaling(), EDMDiscretization())


def test_what_a_class_does_not_declare_is_not_refused():
    class Own(Scaling):
        names: ClassVar[list[str]] = []

        def __call__(self, sigma: Tensor) -> Coefficients:
            return Coefficients(sigma, sigma, sigma, sigma)

    check_refusals(Own(), scaling=3)
    DiscreteDenoiser(Own(), EDMDiscretization())
