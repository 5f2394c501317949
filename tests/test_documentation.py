"""The documentation names what exists: pages, metrics, examples, commands, files. Nothing is trained and nothing is built."""

import ast
import functools
import importlib
import importlib.util
import inspect
import re
import textwrap
from pathlib import Path

import ogpo_sb3
import pytest
from ogpo_sb3.common.arguments import constructor_arguments
from ogpo_sb3.envs.registry import TASKS
from ogpo_sb3.critics import HLGaussEnsemble
from ogpo_sb3.extraction.ppo_clip import Surrogate
from ogpo_sb3.ogpo.objectives import OBJECTIVES
from ogpo_sb3.zoo import ALGORITHMS
from ogpo_sb3.zoo.door import COMMANDS

ROOT = Path(ogpo_sb3.__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"includes", "_build"} & set(path.relative_to(DOCS).parts))
TEXTS = [ROOT / "README.md", *PAGES]
SECTIONS = (
    "Available policies",
    "The method",
    "Can I use?",
    "Example",
    "Results",
    "Logged values",
    "Implementation details that matter",
    "Parameters",
    "Policies",
)
SHARED = (
    "ogpo_sb3.critics.hl_gauss",
    "ogpo_sb3.common.updates",
    "ogpo_sb3.common.async_collection",
    "ogpo_sb3.common.off_policy",
)


def title(path):
    return str(path.relative_to(ROOT))


@functools.cache
def text_of(path):
    """A page with the parts it includes, and those that they include."""

    def included(match):
        return text_of(path.parent / match[1])

    return re.sub(r"```\{include\} (\S+)\n```", included, path.read_text(encoding="utf-8"))


def page_of(algorithm):
    """Named after the algorithm's folder."""
    return DOCS / "modules" / f"{algorithm.__module__.split('.')[1]}.md"


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_a_page(name):
    algorithm, page = ALGORITHMS[name], page_of(ALGORITHMS[name])
    text = text_of(page)
    assert f".. autoclass:: ogpo_sb3.{algorithm.__name__}\n" in text
    assert [heading for heading in SECTIONS if f"\n## {heading}\n" not in text] == []
    assert f"--algo {name} " in text or f"`{name}`" in text
    assert "python -m ogpo_sb3.zoo train --algo" in text
    assert [alias for alias in algorithm.policy_aliases if f'`"{alias}"`' not in text] == []
    assert "| Box |" in text and "```python" in text


def test_every_page_is_in_a_table_of_contents():
    trees = re.findall(r"```\{toctree\}\n(.*?)```", text_of(DOCS / "index.md"), re.DOTALL)
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    pages = [str(path.relative_to(DOCS).with_suffix("")) for path in PAGES]
    assert sorted([*entries, "index"]) == sorted(pages)


def test_readme_names_every_algorithm_and_task():
    text = text_of(ROOT / "README.md")
    assert [name for name, cls in ALGORITHMS.items() if f"| `{name}` | `{cls.__name__}` |" not in text] == []
    named = re.findall(r"ogpo/(\w+)-v0", text) + [
        prefix + choice for prefix, choices in re.findall(r"ogpo/(\w+)\{([\w,]+)\}-v0", text) for choice in choices.split(",")
    ]
    assert {f"ogpo/{name}-v0" for name in named} == set(TASKS)
    assert len(text.splitlines()) <= 130


def test_changelog():
    """Fixed headings, and items that follow each other without gaps and are written once."""
    releases = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1:]
    for release in releases:
        assert re.findall("^### (.*)$", release, re.MULTILINE) == [
            "Breaking changes",
            "New features",
            "Bug fixes",
            "Deprecations",
            "Others",
            "Documentation",
        ]
        items = re.findall(r"^- .*(?:\n  .*)*", release, re.MULTILINE)
        assert sorted(items) == sorted(set(items))
        assert "\n\n- " not in re.sub(r"### .*\n\n- ", "", release)


# -- metrics ----------------------------------------------------------------------------------------------------------


def literals(nodes, prefixes):
    """Names of a dictionary's keys; a name that is put in front of some is replaced by each of the prefixes."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Constant):
            names.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            ending = "".join(part.value for part in node.values if isinstance(part, ast.Constant))
            names |= {prefix + ending for prefix in prefixes}
    return names


def keys_in(function, prefixes):
    """Keys of all dictionaries that a function writes down."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            names |= {keyword.arg for keyword in node.keywords if keyword.arg}
        elif isinstance(node, ast.Dict):
            names |= literals(node.keys, prefixes)
    return names


def called(tree, *methods):
    """First argument of each call of one of these methods."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods and node.args:
            yield node.args[0]


def logged_by(algorithm):
    """Logged names by the module that logs them, read off the source: what steps of training return, what is recorded."""
    classes = [cls for cls in algorithm.__mro__ if cls.__module__.startswith("ogpo_sb3.")] + [Surrogate, HLGaussEnsemble]
    classes += OBJECTIVES.values() if issubclass(algorithm, ogpo_sb3.OGPO) else []
    trees = [(cls.__module__, ast.parse(textwrap.dedent(inspect.getsource(cls)))) for cls in classes]
    prefixes = {arg.value for _, tree in trees for arg in called(tree, "_improve") if isinstance(arg, ast.Constant)}
    found = {}
    for module, tree in trees:
        names = {arg.value for arg in called(tree, "record", "record_mean") if isinstance(arg, ast.Constant)}
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            returns = "" if function.returns is None else ast.unparse(function.returns)
            if "dict[str, th.Tensor]" in returns or function.name == "_update_rates":
                names |= {f"train/{name}" for name in keys_in(function, prefixes)}
        found.setdefault(module, set()).update(names)
    return found


def documented_on(page):
    return set(re.findall(r"`((?:train|time|rollout|eval)/\w+)`", text_of(page)))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_logged_value_is_explained(name):
    """What an algorithm's own code logs on its own page; what all share there or on OGPO's."""
    algorithm = ALGORITHMS[name]
    own = documented_on(page_of(algorithm))
    off_policy = hasattr(algorithm, "pretrain_critic")
    for module, names in logged_by(algorithm).items():
        if module == Surrogate.__module__ and page_of(algorithm).stem != "ogpo":
            continue  # the clipped objective's backward pass is OGPO's
        known = own | documented_on(DOCS / "modules" / "ogpo.md") if module in SHARED or not off_policy else own
        assert names - known == set(), module


@pytest.mark.parametrize("page", sorted({page_of(cls) for cls in ALGORITHMS.values()}), ids=title)
def test_every_value_that_is_explained_is_logged(page):
    logged = {
        name
        for algorithm in ALGORITHMS.values()
        if page_of(algorithm) == page
        for names in logged_by(algorithm).values()
        for name in names
    }
    assert {name for name in documented_on(page) if name.startswith("train/")} - logged <= NEGATED.get(page.stem, set())


# Pages that say of a name that it is not logged.
NEGATED = {"steer_residual": {"train/actor_loss"}, "dsrl": {"train/actor_loss"}}


def test_metrics_are_found_in_the_source():
    """The reading of the source itself: some names that are logged in each of the ways there are."""
    names = {name for part in logged_by(ogpo_sb3.SteerResidual).values() for name in part}
    assert {"train/edit_temperature", "train/noise_grad_norm", "train/latent_size", "train/critic_loss"} <= names
    assert {"train/learning_rate", "train/n_updates", "time/updates_per_second", "rollout/policy_lag"} <= names
    names = {name for part in logged_by(ogpo_sb3.DPPO).values() for name in part}
    assert {"train/entropy_loss", "train/explained_variance", "train/value_grad_norm", "time/decisions"} <= names


# -- examples and commands --------------------------------------------------------------------------------------------

BLOCKS = [
    pytest.param(block, id=f"{title(path)}:{i}")
    for path in TEXTS
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", text_of(path), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_examples(block):
    """They are Python, what they import exists, and algorithms are built with arguments that they take."""
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("ogpo_sb3", "benchmarks"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"ogpo_sb3[.\w]+", ast.unparse(node)):
            functools.reduce(getattr, ast.unparse(node).split(".")[1:], ogpo_sb3)
        elif isinstance(node, ast.Call):
            algorithm = getattr(ogpo_sb3, ast.unparse(node.func).split(".")[-1], None)
            if algorithm in ALGORITHMS.values():
                assert {keyword.arg for keyword in node.keywords if keyword.arg} - {*constructor_arguments(algorithm)} == set()
    assert set(re.findall(r"ogpo/\w+-v0", block)) <= set(TASKS)


@pytest.mark.parametrize("path", TEXTS, ids=title)
def test_commands(path):
    """Modules that can be run, subcommands of the zoo, ids of algorithms and tasks."""
    text = text_of(path)
    for module in set(re.findall(r"python -m (ogpo_sb3[\w.]*|benchmarks[\w.]*)", text)):
        name = module.rstrip(".")
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        if spec.submodule_search_locations:
            assert importlib.util.find_spec(f"{name}.__main__") is not None, name
    assert set(re.findall(r"ogpo_sb3\.zoo ([a-z-]+)", text)) <= set(COMMANDS)
    algorithms = re.findall(r"--algo (\w+)", text)
    algorithms += [name for names in re.findall(r"--algos ([\w ]+)", text) for name in names.split()]
    assert set(algorithms) - {"sac"} <= set(ALGORITHMS)
    assert set(re.findall(r"ogpo/\w+-v0", text)) <= set(TASKS)


@pytest.mark.parametrize("path", TEXTS, ids=title)
def test_files_of_the_repository(path):
    """Files that a page names or that a link leads to."""
    named = re.findall(r"`((?:ogpo_sb3|benchmarks|tests|zoo_configs)/[\w./-]+)`", text_of(path))
    assert [name for name in named if not (ROOT / name).exists()] == []
    linked = re.findall(r"\]\(((?!\w+:)[^)#\s]+)", text_of(path))
    assert [link for link in linked if not (path.parent / link).exists()] == []
