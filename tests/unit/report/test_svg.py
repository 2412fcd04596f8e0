"""What every figure shares: signs of any script, without a warning."""

from __future__ import annotations

from kdcli.report.figures.svg import canvas, finished, house_style


def test_japanese_class_names_are_text_in_the_svg_and_warn_nobody():
    # pytest makes an error of every warning
    with house_style("names"):
        drawing = canvas()
        axes = drawing.subplots()
        axes.bar(["日本語", "ねこ", "हिन्दी"], [1, 2, 3])
        figure = finished(drawing, "names", "gap", "日本語", "caption", "n = 3")
    assert ">日本語<" in figure.svg
    assert ">ねこ<" in figure.svg
    assert "Last Resort" not in figure.svg
    assert figure.png.startswith(b"\x89PNG")
