#!/usr/bin/env python3
"""Compares the steps that the models name with those that the code names.

usage: tests/model/steps.py [--self-test]

In the code, a comment `// STEP name...` stands at each instruction that a model has; in a model, at
the transition that stands for it. The two lists must be the same. In a Spin model each line that
writes a global variable names its step, or that of the block around it, or says `// MODEL`: then it
is a death, a decision of an operator, or what only the model counts.
"""
import pathlib
import re
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = re.compile(r"\bSTEP ((?:[a-z_]+\.[a-z_]+ ?)+)")
GLOBAL = re.compile(r"^(?:byte|bit|Record|Cell|Cursor|Claim|[A-Z]\w*) ([^(){};]+);", re.M)
SWITCH = re.compile(r"^#(?:ifn?def|if|elif) (.*)$", re.M)


def steps_in(paths):
    """Maps each step to the first place that names it."""
    found = {}
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for names in STEPS.findall(line):
                for name in names.split():
                    found.setdefault(name, f"{path.name}:{number}")
    return found


def global_names(text):
    names = set()
    for declared in GLOBAL.findall(text):
        for part in re.sub(r"/\*.*?\*/|\[[^\]]*\]|=[^,]*", "", declared).split(","):
            names.add(part.strip())
    return names


def unnamed_writes(path, names):
    """Lines of a Spin model that write one of `names` without saying which step that is."""
    macros = r"\b(?:CELL|CURSOR|LANE)\b"
    target = rf"(?:\b(?:{'|'.join(sorted(names))})\b|{macros})"
    write = re.compile(rf"{target}(?:[\[(][^;=]*?[\])])?(?:\.\w+(?:\[[^\]]*\])?)*\s*(?:=(?!=)|\+\+|--)")
    block_ends = None  # depth below which the named block ends
    depth = 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        code = re.sub(r"//.*|/\*.*?\*/", "", line)
        named = STEPS.search(line) is not None or "// MODEL" in line
        inside = block_ends is not None
        declared = re.match(r"(?:#|byte |bit |typedef |\w+ \w+\[)", line)
        if code.startswith("init"):
            return  # the beginning
        if write.search(code) and not (named or inside or declared):
            yield f"{path.name}:{number}: writes a global variable and names no STEP: {line.strip()}"
        before = depth
        depth += code.count("{") - code.count("}")
        if named and depth > before and not inside:
            block_ends = before
        elif block_ends is not None and depth <= block_ends:
            block_ends = None


def without_seeded_bugs(path, folder):
    """A copy of a model in which the lines of BUG_ switches are empty."""
    lines, hidden = [], []
    for line in path.read_text().splitlines():
        if re.match(r"#if", line):
            hidden.append("BUG_" in line and not line.startswith("#ifndef"))
        elif re.match(r"#el", line) and hidden:
            hidden[-1] = not hidden[-1] if line.startswith("#else") and "BUG_" not in line and hidden[-1] else "BUG_" in line
        elif re.match(r"#endif", line):
            hidden.pop()
        lines.append("" if any(hidden) or line.startswith("#") else line)
    copy = folder / path.name
    copy.write_text("\n".join(lines))
    return copy


def complaints(root):
    code = steps_in(sorted((root / "shm").rglob("*.h")) + sorted((root / "shm").glob("*.cc")))
    folder = root / "tests" / "model"
    # Refuted designs are not the code's.
    spin = [path for path in sorted(folder.glob("*.pml")) if not path.name.startswith("refuted_")]
    models = steps_in(spin + sorted(folder.glob("*.cc")))
    for name in sorted(models.keys() - code.keys()):
        yield f"{models[name]}: STEP {name} is nowhere in shm/"
    for name in sorted(code.keys() - models.keys()):
        yield f"{code[name]}: STEP {name} is in no model"
    if not code:
        yield "shm/ names no step"
    with tempfile.TemporaryDirectory() as temporary:
        for path in spin:
            text = path.read_text()
            with_parts = text + "".join((folder / part).read_text()
                                        for part in re.findall(r'#include "(\w+\.pml)"', text))
            owner = next((other for other in spin if f'#include "{path.name}"' in other.read_text()), path)
            names = global_names(owner.read_text() if owner != path else with_parts)
            yield from unnamed_writes(without_seeded_bugs(path, pathlib.Path(temporary)), names)


def self_test():
    """Each of these changes must be complained of, and the first, which changes nothing, must not."""
    changes = [
        ("tests/model/chunk.pml", "STEP close.word", "STEP close.word"),
        ("tests/model/chunk.pml", "STEP close.word", "STEP close.sword"),
        ("shm/chunk_ops.h", "STEP close.word", ""),
        ("shm/chunk_ops.h", "STEP close.word", "STEP close.word close.again"),
        ("tests/model/chunk.pml", "gen++; // STEP share.generation", "gen++;"),
        ("tests/model/lane.pml", "// STEP take.claim", ""),
    ]
    for name, old, new in changes:
        with tempfile.TemporaryDirectory() as temporary:
            root = pathlib.Path(temporary)
            for folder in ("shm", "tests/model"):
                shutil.copytree(ROOT / folder, root / folder)
            text = (root / name).read_text()
            if old not in text:
                sys.exit(f"steps.py: self-test: '{old}' is not in {name}")
            (root / name).write_text(text.replace(old, new))
            if bool(list(complaints(root))) != (old != new):
                sys.exit(f"steps.py: self-test: wrong about '{old}' -> '{new}' in {name}")
    print(f"steps: self-test: {len(changes) - 1} changes were complained of")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:]:
        sys.exit(__doc__)
    found = list(complaints(ROOT))
    print("\n".join(found))
    if found:
        sys.exit(f"steps.py: {len(found)} complaints")
    print(f"steps: {len(steps_in((ROOT / 'tests' / 'model').glob('*.pml')))} steps of Spin models are those of the code")


if __name__ == "__main__":
    main()
