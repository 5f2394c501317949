"""
Boxes in place of LIBERO's meshes, for one task: the engine, its task file, predicates and recorded starts are the real ones.
"""

from pathlib import Path

import numpy as np
from PIL import Image

# "Pick the alphabet soup and place it in the basket" (libero_object): half sizes in metres.
SUITE, TASK_ID = "libero_object", 0
GROCERIES = ("alphabet_soup", "salad_dressing", "cream_cheese", "milk", "tomato_sauce", "butter")

OBJECT = """<mujoco model="{name}">
  <worldbody><body>
    <body name="object">
      {geoms}
    </body>
    <site name="bottom_site" pos="0 0 -{height}" size="0.005" rgba="0 0 0 0"/>
    <site name="top_site" pos="0 0 {height}" size="0.005" rgba="0 0 0 0"/>
    <site name="horizontal_radius_site" pos="{width} {width} 0" size="0.005" rgba="0 0 0 0"/>
  </body></worldbody>
</mujoco>"""

BOX = '<geom type="box" pos="{pos}" size="{size}" rgba="{rgba}" group="{group}" density="{density}"/>'

SCENE = """<mujoco model="floor">
  <asset>
    <texture name="texplane" type="2d" file="../textures/floor.png"/>
    <texture name="tex-wall" type="2d" file="../textures/wall.png"/>
    <material name="floorplane" texture="texplane"/>
  </asset>
  <worldbody>
    <geom name="floor" type="plane" size="3 3 0.1" pos="0 0 -0.035" material="floorplane" group="1"/>
    <body name="floor"/>
    <light pos="0 0 3" dir="0 0 -1"/>
  </worldbody>
</mujoco>"""


def write(folder: Path) -> Path:
    """Write a folder of assets.

    :param folder: where; made.
    :return: the folder.
    """
    for part in ("articulated_objects", "stable_scanned_objects", "turbosquid_objects", "stable_hope_objects", "scenes"):
        (folder / part).mkdir(parents=True)
    (folder / "scenes" / "libero_floor_base_style.xml").write_text(SCENE)
    (folder / "textures").mkdir()
    for name, grey in (("light-gray-floor-tile", 120), ("light-gray-plaster", 200)):
        Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(folder / "textures" / f"{name}.png")
    for index, name in enumerate(GROCERIES):
        colour = np.eye(3)[index % 3] * (1.0 if index < 3 else 0.6)
        rgba = " ".join(map(str, [*colour, 1]))
        # robosuite hides group 0, what collides, and draws group 1.
        geoms = "".join(
            BOX.format(pos="0 0 0", size="0.02 0.02 0.03", rgba=rgba, group=group, density=200) for group in (0, 1)
        )
        _object(folder / "stable_hope_objects", name, geoms, 0.02, 0.03)
    walls = [("0 0 -0.045", "0.08 0.08 0.005")]
    walls += [(f"{x} {y} 0", f"{a} {b} 0.05") for x, y, a, b in ((0.08, 0, 0.005, 0.08), (-0.08, 0, 0.005, 0.08))]
    walls += [(f"{x} {y} 0", f"{a} {b} 0.05") for x, y, a, b in ((0, 0.08, 0.08, 0.005), (0, -0.08, 0.08, 0.005))]
    geoms = "".join(
        BOX.format(pos=pos, size=size, rgba="0.5 0.3 0.1 1", group=group, density=400)
        for pos, size in walls
        for group in (0, 1)
    )
    geoms += '<site name="contain_region" type="box" pos="0 0 0" quat="1 0 0 0" size="0.07 0.07 0.05" rgba="0 0 0 0"/>'
    _object(folder / "stable_scanned_objects", "basket", geoms, 0.085, 0.05)
    return folder


def _object(folder: Path, name: str, geoms: str, width: float, height: float) -> None:
    (folder / name).mkdir()
    (folder / name / f"{name}.xml").write_text(OBJECT.format(name=name, geoms=geoms, width=width, height=height))
