"""Every Python file: no library but those that the assignment names, no line that is too long."""

import ast
import sys
import unittest

from tests import ROOT

ALLOWED = {"torch", "torchvision", "numpy", "pandas", "matplotlib", "PIL"}
FOLDERS = {"tests", "writeup", "extras"}
FILES = [path for folder in (".", *FOLDERS) for path in (ROOT / folder).glob("*.py")]


class Files(unittest.TestCase):
    def test_only_the_assignments_libraries(self):
        own = {path.stem for path in ROOT.glob("*.py")} | FOLDERS
        self.assertGreater(len(FILES), 8)
        for path in FILES:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                for name in names:
                    self.assertIn(name.split(".")[0], ALLOWED | own | sys.stdlib_module_names,
                                  f"{path.relative_to(ROOT)}, line {node.lineno}")

    def test_lines_of_at_most_100_columns(self):
        for path in FILES:
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                self.assertLessEqual(len(line), 100, f"{path.relative_to(ROOT)}, line {number}")
