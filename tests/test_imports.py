"""What the assignment demands of every Python file: no library but those that it names."""

import ast
import sys
import unittest

from tests import ROOT

ALLOWED = {"torch", "torchvision", "numpy", "pandas", "matplotlib", "PIL"}
FOLDERS = {"tests", "writeup", "extras"}
FILES = [path for folder in (".", *FOLDERS) for path in (ROOT / folder).glob("*.py")]


class Imports(unittest.TestCase):
    def test_only_the_assignments_libraries(self):
        own = {path.stem for path in ROOT.glob("*.py")} | FOLDERS
        self.assertGreater(len(FILES), 8)
        for path in FILES:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module]
                else:
                    continue
                for name in names:
                    self.assertIn(name.split(".")[0], ALLOWED | own | sys.stdlib_module_names,
                                  f"{path.relative_to(ROOT)}, line {node.lineno}")
