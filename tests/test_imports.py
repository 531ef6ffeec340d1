import ast
import sys
import unittest

from tests import ROOT

ALLOWED = {"torch", "torchvision", "numpy", "pandas", "matplotlib", "PIL"}


class Imports(unittest.TestCase):
    def test_only_the_sheets_libraries(self):
        files = [path for path in ROOT.rglob("*.py") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
        own = {path.stem for path in files} | {"tests"}
        self.assertGreater(len(files), 8)
        for path in files:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module]
                else:
                    continue
                for name in names:
                    self.assertIn(name.split(".")[0], ALLOWED | own | sys.stdlib_module_names,
                                  f"{path.relative_to(ROOT)}, line {node.lineno}")
