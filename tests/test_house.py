"""Rules of the layout, one test per rule; each lists all violations.

import-linter (`make lint`) checks the import rules, and that every module belongs to a layer.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from docs.architecture import PAGE, rendered
from medvit.config import keys, read_yaml
from medvit.errors import MedvitError
from pipelines.__main__ import STAGES, find

PROJECT = Path(__file__).parent.parent
SOURCES = sorted([*(PROJECT / "medvit").rglob("*.py"), *(PROJECT / "pipelines").rglob("*.py")])
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
EVERYTHING = sorted([*SOURCES, *TESTS, *(PROJECT / "benchmarks").rglob("*.py"), *(PROJECT / "docs").rglob("*.py")])
CONFIGS = sorted((PROJECT / "configs").rglob("*.yaml"))

FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "core"}
MAX_FILES_OF_A_FOLDER = 22
METHODS = ("objectives", "peft", "heads", "backbones")
"""Rooms whose choices are published methods."""
CITATION = re.compile(
    r"[A-Z][\w'-]+(?: et al\.| and [A-Z][\w'-]+),? (?:[\w' -]+ )?(?:19|20)\d\d\b"  # Caron et al., ICCV 2021
    r"|\([A-Z][\w'-]+, [A-Z][\w' -]* (?:19|20)\d\d\b"  # (Howard, NeurIPS 2021)
)
ROOMS_OF_DICOM = (
    "audit",
    "deidentification",
    "delivery",
    "dicom",
    "doctor",
    "phantoms",
    "readers",
    "series",
    "service",
    "sources",
    "writers",
    "wsi",
)
HOMES = {
    "SimpleITK": ("medvit/readers/",),
    "blosc2": ("medvit/dataset/store.py",),
    "captum": ("medvit/explanations/methods/", "medvit/explanations/slides/"),
    "dicomanonymizer": ("medvit/deidentification/profile.py",),
    "dicomweb_client": ("medvit/sources/",),
    "eyepy": ("medvit/readers/heyex.py",),
    "fastapi": ("medvit/service/",),
    "highdicom": ("medvit/writers/",),
    "imagecodecs": ("medvit/dicom/", "medvit/doctor/decoding.py", "medvit/readers/image.py"),
    "jinja2": ("medvit/document/",),
    "markdown_it": ("medvit/document/",),
    "lightning": ("medvit/training/",),
    "mlflow": ("medvit/tracking/", "pipelines/results/_served_model.py"),
    "openpyxl": ("medvit/ingest/label_cells.py",),
    "openslide": ("medvit/wsi/",),
    "peft": ("medvit/peft/",),
    "pydicom": tuple(f"medvit/{room}/" for room in ROOMS_OF_DICOM),
    "prometheus_client": ("medvit/service/",),
    "pynetdicom": ("medvit/delivery/", "medvit/service/", "medvit/sources/"),
    "ray": ("medvit/engine/",),
    "sklearn": (
        "medvit/evaluation/",
        "medvit/baselines/",
        "medvit/embeddings/",
        "medvit/probing/",
        "medvit/curves/baseline.py",
    ),
    "tifffile": ("medvit/wsi/", "medvit/readers/tiff_page.py", "medvit/writers/", "medvit/phantoms/"),
    "timm": ("medvit/backbones/", "medvit/weights/hub.py"),
    "uvicorn": ("medvit/service/",),
    "weasyprint": ("medvit/document/pdf.py",),
    "wsidicom": ("medvit/wsi/",),
}
"""Third party -> where alone it is imported."""


def assert_none(offenders: Iterable[str]) -> None:
    """Fail with a list of all violations of a rule, one per line."""
    found = sorted(offenders)
    assert not found, "\n" + "\n".join(found)


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def module_of(path: Path) -> str:
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> set[str]:
    """Modules a file imports, and the names it takes from them, which may be modules too."""
    imported = set[str]()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return imported


def is_choice(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef) and any(ast.unparse(one) == "register" for one in node.decorator_list)


def modules_of_choices() -> list[Path]:
    """Files that register a choice made by name."""
    return [path for path in SOURCES if any(map(is_choice, tree_of(path).body))]


def undocumented(body: list[ast.stmt], prefix: str, *, may_inherit: bool = False) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if any(ast.unparse(one) == "overload" for one in node.decorator_list):  # the implementation has the docstring
            continue
        if ast.get_docstring(node) is None and not (may_inherit and isinstance(node, ast.FunctionDef)):
            yield f"{prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{prefix}{node.name}.", may_inherit=bool(node.bases))


def is_display(node: ast.expr) -> bool:
    """Whether a starred value is written out: a list or tuple, or one times a condition."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        times = [side for side in (node.left, node.right) if isinstance(side, ast.Call | ast.Compare | ast.BoolOp)]
        return any(not isinstance(side, ast.Call) or ast.unparse(side.func) == "bool" for side in times)
    return isinstance(node, ast.Tuple | ast.List)


def public_types(path: Path) -> Iterator[str]:
    """Classes, aliases of types and type variables of a module."""
    for node in tree_of(path).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            makes_type = re.match(
                r"(typing\.)?(TypeVar|ParamSpec|NewType|NamedTuple)\(", ast.unparse(node.value or node)
            )
            for target in targets:
                if isinstance(target, ast.Name) and (makes_type or re.match(r"[A-Z]\w*[a-z]", target.id)):
                    yield target.id


def test_every_public_name_is_documented() -> None:
    missing = [name_of(path) for path in SOURCES if ast.get_docstring(tree_of(path)) is None]
    for path in SOURCES:
        missing += undocumented(tree_of(path).body, f"{name_of(path)}: ")
    assert_none(missing)


def test_no_file_or_folder_is_a_drawer_for_anything() -> None:
    assert_none(name_of(p) for p in EVERYTHING if FORBIDDEN_NAMES & {p.stem, *p.relative_to(PROJECT).parts})


def test_medvit_has_at_most_three_levels_and_the_third_is_a_room_in_a_room() -> None:
    depths = {path: len(path.relative_to(PROJECT / "medvit").parts) for path in (PROJECT / "medvit").rglob("*.py")}
    too_deep = [name_of(path) for path, depth in depths.items() if depth > 3]
    no_room = [name_of(path) for path in depths if not (path.parent / "__init__.py").is_file()]
    assert_none(too_deep + no_room)


def test_no_folder_has_over_22_python_files() -> None:
    sizes = Counter(name_of(path.parent) for path in EVERYTHING)
    assert_none(f"{folder}: {size}" for folder, size in sizes.items() if size > MAX_FILES_OF_A_FOLDER)


def test_third_parties_live_in_one_place() -> None:
    used = defaultdict(set[str])
    for path in SOURCES:
        for party in {module.partition(".")[0] for module in imports_of(path)} & HOMES.keys():
            used[party].add(name_of(path))
    abroad = {f"{path} imports {party}" for party in used for path in used[party] if not path.startswith(HOMES[party])}
    empty = {
        f"{home} no longer imports {party}"
        for party, homes in HOMES.items()
        for home in homes
        if not any(path.startswith(home) for path in used[party])
    }
    assert_none(abroad | empty)


def test_no_list_or_tuple_is_written_out_to_be_starred() -> None:
    found = []
    for path in EVERYTHING:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call | ast.List | ast.Tuple | ast.Set):
                items = node.args if isinstance(node, ast.Call) else node.elts
                starred = [item for item in items if isinstance(item, ast.Starred) and is_display(item.value)]
                found += [f"{name_of(path)}:{item.lineno}: {ast.unparse(item)}" for item in starred]
    assert_none(found)


def test_a_public_type_name_exists_once() -> None:
    homes = defaultdict(list)
    for path in SOURCES:
        for name in public_types(path):
            if not name.startswith("_"):
                homes[name].append(name_of(path))
    assert_none(f"{name}: {', '.join(paths)}" for name, paths in homes.items() if len(paths) > 1)


def test_the_module_of_every_choice_is_imported_by_a_test() -> None:
    imported = set.union(*(imports_of(path) for path in TESTS))
    choices = modules_of_choices()
    assert len(choices) > 10
    assert_none(name_of(path) for path in choices if module_of(path) not in imported)


def test_a_method_names_its_source() -> None:
    """A docstring of its file cites a paper, as in (Caron et al., ICCV 2021)."""
    nameless = []
    for path in modules_of_choices():
        documented = (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
        docstrings = " ".join(" ".join((ast.get_docstring(node) or "").split()) for node in documented)
        if path.parent.name in METHODS and not CITATION.search(docstrings):
            nameless.append(name_of(path))
    assert_none(nameless)


def test_a_config_loads_for_the_stage_its_file_is_named_after() -> None:
    failed = []
    for path in CONFIGS:
        kind = find(path.stem.partition("-")[0]).config_type
        inputs = {key.name for key in keys(kind) if key.default == "required"} - read_yaml(path).keys()
        try:
            config = kind.load(path, [f"{key}=somewhere" for key in sorted(inputs)])
            if kind.parse(config.tree()) != config:
                failed.append(f"{name_of(path)}: its tree is another config")
        except MedvitError as error:
            failed.append(f"{name_of(path)}: {error}")
    assert_none(failed)


def test_a_config_opens_with_what_it_is_its_command_and_two_overrides() -> None:
    failed = []
    for path in CONFIGS:
        lines = path.read_text(encoding="utf-8").splitlines()
        opening = lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))]
        text = "\n".join(opening)
        has_command = f"medvit {path.stem.partition('-')[0]} {name_of(path)}" in text
        if not (len(opening) >= 3 and has_command and len(re.findall(r"[\w.]+=\S+", text)) >= 2):
            failed.append(name_of(path))
    assert_none(failed)


def test_the_map_of_the_project_is_that_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- generated: ") == page.count("<!-- end -->") == 4
    assert page == rendered(page), "docs/architecture.md is out of date; run: python -m docs.architecture"


def test_the_map_names_every_file_of_the_artifacts() -> None:
    page, stored = PAGE.read_text(encoding="utf-8"), PROJECT / "tests" / "fixtures"
    for artifact in ("dataset", "checkpoint", "report", "predictions"):
        files = {path.name for path in stored.glob(f"*/{artifact}/*") if path.is_file()}
        assert files
        assert_none(name for name in files if f"`{name}`" not in page)


def test_the_readme_names_every_room() -> None:
    rooms = {path.parent.name for path in (PROJECT / "medvit").glob("*/__init__.py")}
    text = (PROJECT / "README.md").read_text(encoding="utf-8").partition("## Layout")[2]
    assert_none(room for room in rooms if not re.search(rf"\b{room}\b", text))


def test_every_stage_is_in_the_list_of_the_command_line() -> None:
    recipes = {path.stem for path in (PROJECT / "pipelines").rglob("[!_]*.py")}
    assert recipes == STAGES.keys()


def test_the_commands_that_contributors_are_told_exist() -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    modules = {name for name in re.findall(r"python -m ([\w.]+)", text) if name != "pytest"}
    places = {name.replace(".", "/") for name in modules}
    assert len(modules) > 3
    assert_none(f"make {name}" for name in re.findall(r"`make (\w+)`", text) if name not in targets)
    assert_none(
        place
        for place in places
        if not (PROJECT / f"{place}.py").is_file() and not (PROJECT / place / "__main__.py").is_file()
    )


def test_importing_medvit_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "pydantic", "mlflow", "pipelines"}
    program = f"import sys, medvit; dir(medvit); print(sorted({heavy} & sys.modules.keys()))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_the_lock_holds_exact_versions_and_nothing_of_one_machine() -> None:
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lock if line and not line.startswith("#")]
    assert_none(pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9_.]*", pin))
    assert_none(pin for pin in pins if re.match(r"nvidia|cuda|triton", pin))
    assert {"torch==2.13.0", "torchvision==0.28.0"} <= set(pins)
