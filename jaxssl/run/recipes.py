"""Recipes and overrides as the configuration of a run; what a run directory says, read again.

The verbs differ in what they begin with where a recipe says nothing: `PRETRAIN` and `FINETUNE`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxssl.checkpoint.init_config import ABOUT_RESTORED, split_checkpoint
from jaxssl.checkpoint.origin import find_origin, open_origin
from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError, UserErrors, did_you_mean
from jaxssl.core.names import flatten
from jaxssl.core.paths import looked_up, suggestion
from jaxssl.core.registry import choice_name, members
from jaxssl.core.seal import check_seal
from jaxssl.models.model import ModelConfig
from jaxssl.optim.schedules import upgraded_schedule
from jaxssl.parallel.rules import AXES
from jaxssl.run.adopted import adopted_settings
from jaxssl.run.config import RunConfig
from jaxssl.run.plugins import check_plugins
from jaxssl.transfer.peft.base import Method

Layer = Mapping[str, Any]

PRETRAIN: Layer = {"objective": {}, "data": {"name": "store"}}
FINETUNE: Layer = {
    "objective": {"name": "classify"},
    "data": {"name": "tables"},
    "optimizer": {"name": "adamw", "learning_rate": 5e-5},
    "train": {"epochs": 3},
    "evaluation": {"every_epochs": 1},
    "checkpoint": {"keep_last": 1},
}
"""What the verbs begin with: a layer below all recipes."""
ENDINGS = (".yaml", ".yml")
"""Of recipes' files."""
MESH = {"data": -1, "fsdp": 1, "context": 1, "tensor": 1}
"""What earlier versions wrote of a mesh where nothing was given."""
EITHER = (("train", ("steps", "epochs")), ("evaluation", ("every", "every_epochs")))
"""Keys of which one says what the other would: a recipe with one does without the verb's other."""


def load_config(
    recipes: Iterable[str | Path | Layer],
    overrides: Iterable[str] = (),
    defaults: Layer = PRETRAIN,
) -> RunConfig:
    """Recipes (later ones win) and `a.b=c` overrides as a validated configuration, over the model
    of the run that `init.from` names, if any, and over what the verb begins with.

    Args:
      recipes: files, names of recipes that come with jaxssl, or their content.
      defaults: `PRETRAIN` or `FINETUNE`.

    Raises:
      UserError: a mistake in them; `init.from` is no run.
    """
    return configuration.load(RunConfig, config_layers(recipes, overrides, defaults))


def config_layers(
    recipes: Iterable[str | Path | Layer], overrides: Iterable[str], defaults: Layer
) -> list[Layer]:
    """The layers that `load_config` makes a configuration of, the lowest first."""
    contents = [
        x if isinstance(x, Mapping) else configuration.read_yaml(find_recipe(x)) for x in recipes
    ]
    layers = [upgraded(content) for content in contents]
    layers.append(upgraded(configuration.combine([], overrides)))
    layers = _with_last_preset(layers)
    given = configuration.combine(layers)
    below = configuration.combine(
        [defaults, base_model(given), base_networks(given), adopted_settings(given)]
    )
    if isinstance(given.get("streams"), Mapping) and given["streams"]:
        _check_beside_streams(given)
        below = {k: v for k, v in below.items() if k not in ("objective", "data")}
    for section, keys in EITHER:
        if any(key in (given.get(section) or {}) for key in keys):
            below[section] = {k: v for k, v in below.get(section, {}).items() if k not in keys}
    return [below, *layers]


def _check_beside_streams(given: Layer) -> None:
    """Refuses what is of one stream where there are several, and says where it belongs.

    Raises:
      UserError: names what is given.
    """
    errors = []
    for section in ("objective", "data"):
        found = flatten({section: given[section]}) if given.get(section) is not None else {}
        if not found:
            continue
        (path, value), *more = found.items()
        key = path.replace("/", ".")
        errors.append(
            UserError(
                f"{section} is given beside streams, each of which has its own",
                where=key,
                expected=" and ".join(f"streams.{name}.{section}" for name in given["streams"]),
                got=f"{key}={value}" + (f", and {len(more)} more" if more else ""),
                fix=f"write streams.{next(iter(given['streams']))}.{key}=..., and so for each "
                f"stream that it is for; {section}=null leaves out what a recipe says",
            )
        )
    if errors:
        raise errors[0] if len(errors) == 1 else UserErrors(errors)


def read_config(run_dir: Path, layers: Iterable[str] = ()) -> RunConfig:
    """The configuration in a run directory, with recipes and overrides on top.

    How the run's processes found each other is left out: it was true of its own cluster alone.

    Raises:
      UserError: it is not a run directory, or the command lacks plugins that it was trained with.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(
            "not a run directory",
            where=run_dir,
            expected="a directory with config.yaml, as pretrain, finetune and import make",
            got="no config.yaml in it" if run_dir.exists() else looked_up(run_dir),
            fix=f"jaxssl import {run_dir} NEW_DIRECTORY"
            if find_origin(run_dir) is not None
            else suggestion(run_dir)
            or "give the directory that `out` named when the run was trained",
        )
    check_seal(run_dir)
    check_plugins(run_dir)
    kept = {key: v for key, v in configuration.read_yaml(path).items() if key != "distributed"}
    given = list(layers)
    files = [configuration.read_yaml(find_recipe(layer)) for layer in given if "=" not in layer]
    changes = configuration.combine([], [layer for layer in given if "=" in layer])
    return configuration.load(
        RunConfig,
        _with_last_preset([upgraded_run(kept), *(upgraded(x) for x in (*files, changes))]),
    )


def _with_last_preset(layers: Sequence[Layer]) -> list[Layer]:
    """Layers in which the mesh begins anew with the last that names a preset, or null for one: the
    sizes of axes in those below are left out."""
    last = max((i for i, layer in enumerate(layers) if "preset" in _mesh(layer)), default=0)

    def without(layer: Layer) -> Layer:
        kept = {key: x for key, x in _mesh(layer).items() if key not in (*AXES, "preset")}
        return {**layer, "mesh": kept} if kept != _mesh(layer) else layer

    return [*map(without, layers[:last]), *layers[last:]]


def _mesh(layer: Layer) -> Layer:
    mesh = layer.get("mesh")
    return mesh if isinstance(mesh, Mapping) else {}


def upgraded_run(config: Layer) -> dict[str, Any]:
    """The whole configuration of a run as it is written now.

    Earlier versions took, and wrote, fields that were never read beside others; a recipe may not
    have them.
    """
    new = _without_unread(upgraded(config))
    if "mesh" in new and "preset" not in (mesh := _mesh(new)):
        new["mesh"] = {key: v for key, v in mesh.items() if v != MESH.get(key)}
    optimizer = new.get("optimizer")
    if isinstance(optimizer, Mapping) and isinstance(optimizer.get("schedule"), Mapping):
        schedule = upgraded_schedule(optimizer["schedule"])
        new["optimizer"] = {**optimizer, "schedule": schedule}
    return new


def _named_adapters(peft: Any) -> Layer:
    """Methods by the names of adapters: settings alone are those of the adapter `default`.

    Raises:
      UserError: a method's name in the place of its settings, or settings beside named adapters.
    """
    methods = [choice_name(each) for each in members(Method)]
    given = peft if isinstance(peft, Mapping) else {"": peft}
    for name, value in given.items():
        if name != "name" and not isinstance(value, Mapping) and value in methods:
            where = f"peft.{name}".rstrip(".")
            raise UserError(
                "a method by its name alone",
                where=where,
                expected="its settings, of which its name is one",
                got=repr(value),
                fix=f"{where}.name={value}",
            )
    named = [k for k, x in given.items() if isinstance(x, Mapping) and "name" in x]
    if named and "name" in given:
        raise UserError(
            "an adapter without a name beside adapters by name",
            where="peft",
            expected="a name for each, or the settings of one",
            got=f"name={given['name']} beside {', '.join(named)}",
            fix=f"peft.own.name={given['name']} peft.{named[0]}.name=...",
        )
    if not isinstance(peft, Mapping) or all(isinstance(x, Mapping) for x in peft.values()):
        return peft  # what is no mapping is refused where its type is
    return {"default": peft}


def _without_unread(node: Any) -> Any:
    """A part of a run's configuration without the values that were of no meaning beside others."""
    if not isinstance(node, Mapping):
        return [_without_unread(each) for each in node] if isinstance(node, list) else node
    unread: set[str] = set()
    if "from" in node and node.get("scratch"):
        unread |= {*ABOUT_RESTORED}
    if "freeze" in node and node.get("preset", "top") != "top":
        unread.add("top")
    if "train" in node and node.get("validation") is not None:
        unread.add("validation_fraction")
    if node.get("name") == "classify" and not node.get("multi_label"):
        unread.add("separator")
    if node.get("not_finite") == "abort":
        unread.add("not_finite_limit")
    return {key: _without_unread(value) for key, value in node.items() if key not in unread}


def upgraded(layer: Layer) -> dict[str, Any]:
    """A layer as recipes are written now: `task` is another word for `objective`, and what `data`
    are is told by their keys. So are the run directories of version 0.1.

    Raises:
      UserError: it has both words.
    """
    new = dict(layer)
    if "task" in new:
        if "objective" in new:
            raise UserError(
                "a task and an objective in one",
                where="task, objective",
                expected="one of them, or objective.name=combine with both as terms",
                got="both",
            )
        new["objective"] = new.pop("task")
    if isinstance(new.get("objective"), Mapping):
        new["objective"] = _upgraded_objective(new["objective"])
    if isinstance(new.get("imported"), str):
        new = _upgraded_import(new)
    if "peft" in new:
        new["peft"] = _named_adapters(new["peft"])
    if isinstance(new.get("streams"), Mapping):
        new["streams"] = {name: upgraded(stream) for name, stream in new["streams"].items()}
    data = new.get("data")
    if isinstance(data, Mapping) and "name" not in data:
        kinds = [kind for kind in ("store", "tables") if kind in data]
        new["data"] = {"name": kinds[0], **data} if len(kinds) == 1 else dict(data)
    data = new.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("tables"), Mapping):
        tables = {split: _named_table(table) for split, table in data["tables"].items()}
        new["data"] = {**data, "tables": tables}
    return new


def _upgraded_objective(objective: Layer) -> dict[str, Any]:
    """An objective, whose words as a whole were `whole_words` in version 0.1."""
    new = dict(objective)
    if isinstance(new.get("whole_words"), bool):
        whole = new.pop("whole_words")
        new = {**new, "units": {"name": "words"}} if whole else new
    if isinstance(new.get("terms"), list):
        new["terms"] = [
            {**term, "objective": _upgraded_objective(term["objective"])}
            if isinstance(term, Mapping) and isinstance(term.get("objective"), Mapping)
            else term
            for term in new["terms"]
        ]
    return new


def _named_table(table: Any) -> Any:
    """A table of a split, told apart by its keys where it has no name."""
    if not isinstance(table, Mapping) or "name" in table:
        return table
    kinds = [kind for key, kind in (("path", "file"), ("dataset", "hub")) if key in table]
    return {"name": kinds[0], **table} if len(kinds) == 1 else table


def _upgraded_import(layer: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a model that version 0.1 imported."""
    heads = layer.pop("heads", [])
    layer["imported"] = {"source": layer["imported"], "heads": heads}
    layer["data"] = {"name": "imported", **layer.get("data", {})}
    if layer.get("objective") is None:
        layer["objective"] = imported_objective(heads)
    return layer


def imported_objective(heads: Iterable[str]) -> Layer | None:
    """What an imported model without a task is evaluated on: its language model's loss."""
    known = [name for name in ("masked_lm", "causal_lm") if name in heads]
    return {"name": known[0]} if known else None


def base_model(given: Layer) -> dict[str, Any]:
    """{"model": that of the run to start from, in one segment}; nothing without `init.from`.

    Of the plugins that it was trained with, the one that has its family is needed, if one has.

    Args:
      given: a configuration's layers, combined.

    Raises:
      UserError: `init.from` is no run, or its family is that of a plugin.
    """
    init = given.get("init")
    if not isinstance(init, Mapping) or not isinstance(init.get("from"), str):
        return {}
    run_dir, _ = split_checkpoint(init["from"])
    _refuse_recipe(run_dir)
    model = open_origin(run_dir).model(str(init.get("network") or ""))
    if model.get("name") not in map(choice_name, members(ModelConfig)):
        check_plugins(run_dir, registers=f"{ModelConfig.__name__} {model.get('name')}")
    return {"model": model}


def base_networks(given: Layer) -> dict[str, Any]:
    """{"networks": {name: `base_model` of it}} of those that say what they start from."""
    networks = given.get("networks")
    if not isinstance(networks, Mapping):
        return {}
    named = {name: each for name, each in networks.items() if isinstance(each, Mapping)}
    return {"networks": {name: base_model(each) for name, each in named.items()}}


def _own_recipes() -> dict[str, Path]:
    """The recipes that come with jaxssl, by name."""
    package = Path(__file__).parent.parent
    roots = [root for root in (package / "configs", package.parent / "configs") if root.is_dir()]
    return {
        str(path.relative_to(root).with_suffix("")): path
        for root in roots
        for path in sorted(root.rglob("*.yaml"))
    }


def _refuse_recipe(run_dir: Path) -> None:
    """Says what to do with a recipe's name where a run's directory is wanted."""
    if run_dir.exists():
        return
    name = str(run_dir.with_suffix("")).removeprefix("configs/")
    for recipe in _own_recipes():
        if f"/{recipe}".endswith(f"/{name}"):
            raise UserError(
                "a recipe is not a run to start from",
                where="init.from",
                expected="the directory of a run, or of a model",
                got=f"{run_dir}, a recipe's name",
                fix=f"train it first, jaxssl {recipe.partition('/')[0]} {recipe} out=RUN, and "
                "give RUN",
            )


def find_recipe(name: str | Path) -> Path:
    """A recipe's path: a file, or the name of one that comes with jaxssl (`pretrain/bert-tiny`).

    Raises:
      UserError: lists the recipes there are.
    """
    if Path(name).is_file():
        return Path(name)
    known = _own_recipes()
    wanted = str(name).removesuffix(".yaml").removeprefix("configs/")
    if wanted in known:
        return known[wanted]
    beside = [path for path in _other_endings(Path(name)) if path.is_file()]
    fix = f"did you mean {str(beside[0])!r}?" if beside else did_you_mean(wanted, known)
    is_key = "/" not in wanted and ("." in wanted or not wanted.strip("="))
    if fix is None and is_key and Path(name).suffix not in ENDINGS:
        fix = "a change is written key=value without spaces, such as train.steps=1000"
    raise UserError(
        "no such recipe",
        where=str(name),
        expected="a YAML file, or one of " + ", ".join(known),
        got=str(name),
        fix=fix or suggestion(name) or "name one of these, or give the path of a file that exists",
    )


def _other_endings(path: Path) -> list[Path]:
    """What a recipe's file may be called instead: mine.yaml of mine.yml, or of mine."""
    plain = path.with_suffix("") if path.suffix in ENDINGS else path
    return [plain.with_name(plain.name + ending) for ending in ENDINGS]
