"""Dependencies point one way: the imports of every module are read, not run, and held against the
tables below.
"""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "llm_from_scratch"
SOURCES = sorted((ROOT / "src" / PACKAGE).rglob("*.py"))
SCRIPTS = sorted(path for path in (ROOT / "train.py", ROOT / "generate.py") if path.exists())

# Who may import what of the package. The row with the longest matching name counts; a folder's
# files see each other.
ANYTHING = "*"
GROUND = [
    "cores",
    "environment",
    "errors",
    "files",
    "machine",
    "mistakes",
    "pace",
    "pages",
    "places",
    "plots",
    "ranges",
    "signals",
    "terminal",
]  # below everything: any module may import them
# The schema, values held against it, a run's config.yaml
SETTINGS = ["config", "check", "saved_config"]
RUN = ["checkpoint", "weights", "run"]  # a run folder: states, model, all of it
MAY_IMPORT = {
    "cores": [],
    "environment": [],
    "errors": [],
    "files": [],
    "machine": [],
    "mistakes": [],
    "pace": [],
    "pages": [],
    "places": [],
    "plots": [],
    "ranges": [],
    "signals": [],
    "terminal": [],
    "kernels": [],
    "lora": ["kernels", "model"],
    "model": ["kernels", *SETTINGS],
    "tokenizer": ["tokenizer"],
    "tokenizer.base": [],
    "tokenizer.plain": [],
    "tokenizer.patterns": [],
    "tokenizer.merges": [],
    "tokenizer.model_proto": ["tokenizer.base"],
    "tokenizer.bpe": ["tokenizer.base"],
    "tokenizer.bytes": ["tokenizer.base", "tokenizer.merges", "tokenizer.patterns"],
    "tokenizer.char": ["tokenizer.base"],
    "tokenizer.load": ["tokenizer.base", "tokenizer.bpe", "tokenizer.bytes", "tokenizer.char"],
    "tokenizer.template": ["tokenizer.base", "tokenizer.bpe", "tokenizer.bytes"],
    "tokenizer.gguf": [
        "tokenizer.base",
        "tokenizer.bpe",
        "tokenizer.bytes",
        "tokenizer.char",
        "tokenizer.merges",
        "tokenizer.model_proto",
        "tokenizer.patterns",
    ],
    "tokenizer.huggingface": [
        "tokenizer.base",
        "tokenizer.bpe",
        "tokenizer.bytes",
        "tokenizer.char",
        "tokenizer.merges",
        "tokenizer.model_proto",
        "tokenizer.patterns",
    ],
    "data": [],
    "config": ["config"],
    "check": ["config"],
    "saved_config": ["config"],
    "decoding_kernels": ["model"],
    "decoding_linears": ["model"],
    "static_step": ["decoding_kernels", "model"],
    "generation": [
        *SETTINGS,
        "static_step",
        "model",
        "tokenizer",
        "data.clean",
    ],  # a prompt is cleaned as the corpus was
    "chat": ["generation", "model", "static_step", "tokenizer.template", "data.clean", "weights", "config"],
    "checkpoint": [],
    "reference_model": ["checkpoint"],
    "weights": ["checkpoint", "model", "tokenizer"],
    "run": ["checkpoint", "weights", *SETTINGS],
    "study": ["config"],
    "registry": [],
    "gguf": [],
    "gguf.library": [],
    "gguf.names": ["model", "config"],
    "gguf.read": ["gguf.library", "gguf.names", "model", "tokenizer"],
    "gguf.write": ["gguf", "gguf.names", "model", "tokenizer"],
    "onnx": ["model"],
    "pretrained": ["lora", "registry", "gguf", "huggingface", "tokenizer", "weights", "run"],
    "huggingface": [],
    "evaluation": [],
    "explain": [],
    "training": [],
    "rating": [],
    "serve": [],
    "tales": ["tales"],
    "api": ["evaluation.scoring", "generation", "config", "pretrained", "tokenizer", *RUN],
    # The public names, imported lazily
    "": ["api", "config", "data.sampler", "generation", "model", "tokenizer"],
    "doctor": [],
    "doctor.findings": [],
    "doctor.machine": ["doctor.findings", "data"],
    "doctor.run": ["doctor.findings", "data", "pretrained", "reference_model", *RUN, "tokenizer", *SETTINGS],
    "doctor.model": [
        "doctor.findings",
        "gguf.names",
        "huggingface.families",
        "model",
        "pretrained",
        "registry",
        "tokenizer",
        "weights",
    ],
    "doctor.examination": ["doctor", "pretrained"],
    "settings": [*SETTINGS],
    "plan": [],
    "plan.sizes": ["training.memory", "data", "model", "tokenizer", *SETTINGS],
    "plan.measuring": ["training", "model", *SETTINGS],
    "plan.table": [],
    "plan.warnings": ["plan.sizes", "plan.table", "training.finetuning", "data", *SETTINGS],
    "plan.estimate": ["plan", "training", "data", "lora", "model", *SETTINGS],
    "front.run_name": [],
    "front.words": ["check", *RUN],
    "front.compose": ["front.run_name", "front.words", "check", "config"],
    "front.inherit": ["front.words", "check", *RUN, "config", "pretrained", "saved_config", "tokenizer"],
    "front.sweep": ["front.words", "config", "evaluation.comparison_report", "study", "training.results"],
    "front.search": ["front.run_name", "front.sweep", "front.words", "check", "config", "run", "study"],
    "front.program": ["front", "check", "config"],
    "front": [],
    "commands": [ANYTHING],
    "cli": ["commands"],
    "__main__": ["cli"],
    "train": ["commands"],
    "generate": ["commands"],
}
# The modules of data/ in the order of its docstring: each may import those above it, and what
# stands behind its name.
DATA: dict[str, list[str]] = {
    "formats": [],
    "streams": [],
    "archives": [],
    "tables": [],
    "readers": [],
    "folders": [],
    "downloads": ["config"],
    "choices": [],
    "reviews": [],
    "passages": [],
    "news": [],
    "made": [],
    "told": ["tales"],
    "sources": ["config"],
    "clean": [],
    "quality": [],
    "duplicates": [],
    "long_texts": ["tokenizer"],
    "documents": [],
    "conversations": ["tokenizer"],
    "shards": [],
    "tasks": ["tokenizer"],
    "corpus": ["tokenizer", *SETTINGS],
    "learning": ["tokenizer", *SETTINGS],
    "sampler": ["tokenizer"],
    "fresh": ["tokenizer", "tales"],
    "packing": [],
    "preferences": [],
    "prepared": ["tokenizer", "config", "tales"],
    "report": ["tokenizer"],
    "manifest": ["tokenizer"],
    "chats": ["tokenizer", *SETTINGS],
    "locks": ["config"],
    "workers": [],
    "prepare": ["tokenizer", *SETTINGS],
    "inspection": ["tokenizer", "config"],
}
# The same of evaluation/.
EVALUATION: dict[str, list[str]] = {
    "intervals": [],
    "scoring": ["data.sampler", "kernels", "model"],
    "pairs": ["data.clean"],
    "results": [],
    "texts": ["data", *SETTINGS],
    "likelihood": ["weights", "data.long_texts", "tokenizer"],
    "ngram": [],
    "compression": [],
    "baselines": [],
    "references": ["data.long_texts"],
    "style": [],
    "overlap": [],
    "answer_metrics": [],
    "faithfulness": [],
    "continuations": ["weights", "generation", *SETTINGS],
    "answers": ["weights", "data", "generation", "tokenizer", *SETTINGS],
    "options": ["weights", "model", "tales"],
    "tales": ["weights", "data", "generation", "tales", *SETTINGS],
    "harness": ["weights", "generation", "kernels", "tokenizer", *SETTINGS],
    "measure": ["pretrained", "registry", "run", "weights", "data", *SETTINGS],
    "figures": [],
    "tales_report": ["tales"],
    "answer_report": [],
    "report": [],
    "comparison": ["run", "study", *SETTINGS],
    "scaling": ["data.sampler", "run", "weights", "tales", *SETTINGS],
    "scaling_report": [],
    "comparison_report": ["study"],
}
# The same of training/.
TRAINING: dict[str, list[str]] = {
    "internals": [],
    "objects": [],
    "peak": [],
    "trackers": ["checkpoint", "run"],
    "loggers": ["run", *SETTINGS],
    "states": ["checkpoint"],
    "compilation": ["data.prepare", "model"],
    "sharded": ["checkpoint", "model"],
    "averaging": [],
    "finetuning": ["lora", "model", *SETTINGS],
    "memory": ["lora", "model", *SETTINGS],
    "muon": [],
    "optimizers": ["kernels", "model", *SETTINGS],
    "data": ["data", *SETTINGS],
    "module": ["data.sampler", "evaluation.scoring", "kernels", "lora", "model", *SETTINGS],
    "preferences": ["data", "reference_model", "kernels", "model", *SETTINGS],
    "metrics": ["plan.sizes", "run"],
    "progress": ["model", "run", *SETTINGS],
    "watch": ["data", "evaluation.scoring", "kernels", "run", "tokenizer", *SETTINGS],
    "pruning": ["study"],
    "callbacks": ["generation", "lora", *RUN, "tokenizer", *SETTINGS],
    "claim": ["run", *SETTINGS],
    "trainer": ["checkpoint", "data.sampler", *SETTINGS],
    "live": [],
    "explaining": ["explain", "tokenizer"],
    "checks": SETTINGS,
    "results": ["run", *SETTINGS],
    "fit": ["data", *RUN, "huggingface", "lora", "model", "plan", "pretrained", "study", "tokenizer", *SETTINGS],
}
# The same of config/.
CONFIG: dict[str, list[str]] = {
    "model": [],
    "data": [],
    "training": ["data.clean"],
    "generation": ["data.clean"],
    "sweep": [],
}
# The same of serve/.
SERVE: dict[str, list[str]] = {
    "slots": ["model", "static_step"],
    "prefixes": ["model"],
    "requests": ["generation", "tokenizer", "config"],
    "engine": ["generation", "model", "static_step", "tokenizer", "weights", "config"],
    "metrics": [],
    "answers": ["tokenizer"],
    "protocol": ["config", "data.clean", "tokenizer", "weights"],
    "follow": ["data.sampler", "run", *SETTINGS],
    "feeds": [],
    "service": ["weights"],
    "updates": ["weights"],
    "static": [],
    "responses": [],
    "inside": ["explain", "tokenizer", "weights"],
    "playground": ["evaluation.scoring", "explain", "tokenizer", "weights", "config"],
    "limits": [],
    "api": [],
    "server": [],
}
# The same of explain/.
EXPLAIN: dict[str, list[str]] = {
    "distribution": ["config", "generation"],
    "attention": ["model"],
    "trace": ["model"],
    "lens": ["model"],
    "heads": ["model"],
    "neighbours": ["model"],
    "explanation": ["model", "tokenizer"],
    "figures": [],
    "report": [],
}
# The same of huggingface/.
HUGGINGFACE: dict[str, list[str]] = {
    "families": ["model", *SETTINGS],
    "settings": ["model", *SETTINGS],
    "tensors": ["model"],
    "hub": [],
    "adapters": ["checkpoint", "config", "lora", "model"],
    "read": ["checkpoint", "model", "tokenizer", "weights"],
    "card": ["checkpoint", "data.prepared", "run", "weights", *SETTINGS],
    "write": ["model", "tokenizer", "weights"],
}
# The same of tales/, which needs nothing else of the package.
TALES: dict[str, list[str]] = {
    "choices": [],
    "people": [],
    "things": [],
    "places": [],
    "phrases": [],
    "world": [],
    "process": [],
    "telling": [],
    "reading": [],
    "expectation": [],
    "lexicon": [],
    "repairs": [],
    "judge": [],
}
# The same of rating/.
RATING: dict[str, list[str]] = {
    "records": [],
    "rubric": [],
    "study": [],
    "order": [],
    "answers": [],
    "database": [],
    "store": [],
    "texts": [
        "config",
        "data.clean",
        "evaluation.continuations",
        "evaluation.measure",
        "generation",
        "pretrained",
        "weights",
    ],
    "terminal": [],
    "card": [],
    "exports": [],
    "imports": [],
    "judge": [],
    "room": ["serve.answers", "serve.responses", "serve.static"],
    "statistics": [],
    "figures": ["rating.statistics"],
    "blocks": ["rating.statistics"],
    "report": ["rating.statistics"],
}
# The same of rating/statistics/, which knows the records alone.
STATISTICS: dict[str, list[str]] = {
    "results": [],
    "table": ["rating.records"],
    "multiple": [],
    "crossed": [],
    "ranks": [],
    "agreement": [],
    "bradley_terry": [],
    "power": [],
    "scales": ["rating.records"],
    "ordered": [],
    "raters": ["rating.records"],
    "metrics": ["evaluation.overlap", "rating.records"],
    "analysis": ["evaluation.intervals", "rating.records"],
}
ORDERED = {
    "config": CONFIG,
    "data": DATA,
    "evaluation": EVALUATION,
    "explain": EXPLAIN,
    "huggingface": HUGGINGFACE,
    "rating": RATING,
    "rating.statistics": STATISTICS,
    "serve": SERVE,
    "tales": TALES,
    "training": TRAINING,
}
MAY_IMPORT |= {
    f"{folder}.{name}": [*(f"{folder}.{other}" for other in list(modules)[:place]), *more]
    for folder, modules in ORDERED.items()
    for place, (name, more) in enumerate(modules.items())
}
# Where a library may be imported; every library of an optional extra, besides, in one file at most.
ONLY_IN = {
    "lightning": ["training"],
    "pytorch_lightning": [],  # the other name of lightning: two copies of every class
    "hydra": ["commands", "front", "training.objects"],
    "sentencepiece": ["tokenizer.bpe"],
    "jinja2": ["tokenizer.template"],
}


def covers(name: str, module: str) -> bool:
    return name == ANYTHING or module == name or module.startswith(name + ".")


def module_name(path: Path) -> str:
    """`src/llm_from_scratch/data/clean.py` -> `data.clean`; the package itself is ``""``; a script
    is its own name.
    """
    if path in SCRIPTS:
        return path.stem
    parts = path.relative_to(ROOT / "src" / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def imports(source: str, module: str, is_package: bool = False) -> set[str]:
    """Absolute names of everything imported, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = [PACKAGE, *module.split(".")] if module else [PACKAGE]
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, node.module] if node.module else parts)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                found.add(submodule if submodule.removeprefix(PACKAGE + ".") in MODULES else base)
    return found


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    rows = [name for name in MAY_IMPORT if covers(name, module)]
    if module and not rows:
        return [f"{module} has no row in MAY_IMPORT: say what it may import"]
    allowed = GROUND + MAY_IMPORT[max(rows, key=len)] if rows else []
    found = []
    for name in sorted(imports(source, module, is_package)):
        library = name.split(".")[0]
        if library == PACKAGE:
            target = name.removeprefix(PACKAGE).removeprefix(".")
            if target and not any(covers(one, target) for one in allowed):
                found.append(f"{module or PACKAGE} imports {name}")
        elif library in ONLY_IN and not any(covers(one, module) for one in ONLY_IN[library]):
            found.append(f"{module or PACKAGE} imports {library}")
    return found


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_read_in_one_sitting_and_a_function_at_a_glance(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 500
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    lengths = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in functions}
    assert {name: length for name, length in lengths.items() if length > 60} == {}


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model", "from llm_from_scratch.tokenizer import Tokenizer"),
        ("data.shards", "def late():\n    from .. import model"),
        ("data.clean", "from .shards import write"),
        ("data.tasks", "from .prepare import prepare"),
        ("evaluation.scoring", "from .measure import measure"),
        ("training.module", "import llm_from_scratch.cli"),
        ("checkpoint", "from lightning.pytorch import Trainer"),
        ("training.module", "import hydra"),
        ("unheard_of", ""),
    ],
)
def test_a_forbidden_import_is_seen(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize("folder", ORDERED)
def test_the_docstring_of_a_folder_names_every_module_in_order(folder: str) -> None:
    source = (ROOT / "src" / PACKAGE / folder.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source), clean=False) or ""
    named = [line.split()[0] for line in docstring.splitlines() if line.startswith("    ")]
    assert named == list(ORDERED[folder])
    within = {name for name in MODULES if covers(folder, name) and name.count(".") <= folder.count(".") + 1}
    assert {f"{folder}.{name}" for name in named} | {folder} == within


def test_each_optional_library_in_one_file() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    optional = {
        re.split(r"[<>=!~;\[ ]", requirement)[0].replace("-", "_")
        for extra, requirements in extras.items()
        if extra != "dev"
        for requirement in requirements
    }
    assert {"transformers", "ray", "rouge_score"} <= optional
    importers = defaultdict(set)
    for path in [*SOURCES, *SCRIPTS]:
        module = module_name(path)
        for name in imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"):
            importers[name.split(".")[0]].add(module)
    assert [library for library in optional if len(importers[library]) > 1] == []


BLOCKED = """
import importlib, importlib.metadata, json, sys

modules, blocked = json.load(sys.stdin)


class Without:  # a library that is looked for is not found, as where it is not installed
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in blocked else self.finder.find_spec(name, *rest)


def distribution(name, found=importlib.metadata.distribution):  # libraries ask it what is installed
    if name.replace("-", "_").lower() in blocked:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)


sys.meta_path[:] = map(Without, sys.meta_path)
importlib.metadata.distribution = distribution
failed = {}
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as error:
        failed[module] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""
NEEDS_EXTRA = {
    "evaluation.harness": "harness",
    "serve.protocol": "serve",
    "serve.service": "serve",
    "serve.updates": "serve",
    "serve.playground": "serve",
    "serve.api": "serve",
    "serve.server": "serve",
}  # modules that are nothing without a library


def test_every_module_is_imported_with_the_core_dependencies_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=!~;\[ ]", one)[0].replace("-", "_") for one in requirements}

    optional = set().union(*map(names, project["optional-dependencies"].values()))
    blocked = sorted(optional - names(project["dependencies"]))
    assert {"transformers", "lm_eval", "pyarrow", "sacrebleu", "pytest"} <= set(blocked)
    modules = [f"{PACKAGE}.{name}".rstrip(".") for name in sorted(MODULES - {"__main__"})] + ["train", "generate"]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = ['src', '.']\n{BLOCKED}"],
        input=json.dumps([modules, blocked]),
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout.splitlines()[-1])
    for name, extra in NEEDS_EXTRA.items():
        line = failed.pop(f"{PACKAGE}.{name}")
        assert line.startswith("UserError: ")
        assert f"pip install -e '.[{extra}]'" in line
        assert "\n" not in line
    assert failed == {}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (f"{PACKAGE}.config", {"torch", "lightning", "hydra"}),
        (f"{PACKAGE}.generation", {"lightning", "hydra"}),
        (f"{PACKAGE}.checkpoint", {"lightning", "hydra"}),
        ("generate", {"lightning"}),
    ],
)
def test_generating_text_starts_without_the_training_stack(module: str, absent: set[str]) -> None:
    code = f"import sys; sys.path[:0] = ['src', '.']; import {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert module in loaded.stdout.split()
    assert absent.isdisjoint(loaded.stdout.split())
