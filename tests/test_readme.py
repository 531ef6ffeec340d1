"""The README's program does what it says."""

import contextlib
import io
import os
import re

from PIL import Image, ImageOps

from tests import ROOT, TestCase, draw_few


class Readme(TestCase):
    def test_ten_numbers_for_a_picture_of_yours(self):
        program, = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
        self.put(self.raw, self.files)
        self.without_figures()
        self.assertEqual(self.run_main()[0], 0)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        picture = Image.fromarray(draw_few().images[0].numpy())
        ImageOps.invert(picture.resize((300, 300))).save("my_digit.png")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(program, {})
        self.assertEqual(len(re.findall(r"\d\.\d{4}", out.getvalue())), 10)
        with Image.open("my_digit_again.png") as image:
            image.verify()
