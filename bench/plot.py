"""Bars as SVG."""
from xml.sax.saxutils import escape

ROW, NAME_WIDTH, BAR_WIDTH, FIGURE_WIDTH = 22, 130, 420, 90
TOP, BOTTOM = 34, 24


def bars(path, heading, unit, rows, marked):
    """Writes one bar a row, from (name, least, middle, most), with a line over its spread; `marked` names the red one."""
    width, height = NAME_WIDTH + BAR_WIDTH + FIGURE_WIDTH, TOP + ROW * len(rows) + BOTTOM
    scale = BAR_WIDTH / max(most for _, _, _, most in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(heading)}</text>',
        f'<text x="{NAME_WIDTH}" y="{height - 8}" fill="#555">{escape(unit)}</text>',
    ]
    for number, (name, least, middle, most) in enumerate(rows):
        y = TOP + ROW * number
        x1, x2, line = NAME_WIDTH + least * scale, NAME_WIDTH + most * scale, y + ROW / 2 - 2
        parts += [
            f'<text x="{NAME_WIDTH - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{NAME_WIDTH}" y="{y}" width="{middle * scale:.1f}" height="{ROW - 4}"'
            f' fill="{"#c0392b" if name == marked else "#999"}"/>',
            f'<line x1="{x1:.1f}" y1="{line}" x2="{x2:.1f}" y2="{line}" stroke="black"/>',
            f'<text x="{max(x2, NAME_WIDTH + middle * scale) + 6:.1f}" y="{y + 14}">{middle:.2f}</text>',
        ]
    with open(path, "w") as file:
        file.write("\n".join([*parts, "</svg>"]) + "\n")
