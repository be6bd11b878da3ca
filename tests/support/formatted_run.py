"""A run whose texts have all that Markdown has, in six scripts and both directions, with words and lines that would break a layout."""

from __future__ import annotations

from pathlib import Path

from icr_platform.tracking.run_handle import RunHandle
from icr_platform.tracking.tracker import Tracker
from tests.support.synthetic_runs import (
    Prompt,
    evaluated,
    log_arm,
    merged,
    sampled,
    write_prompt_files,
    write_references,
)

SPANISH = (
    """# Cómo se hace el pan

El pan necesita **cuatro cosas**: *harina*, agua, sal y levadura. La receta de `masa_madre` tarda más.

1. Mezcla la harina y el agua.
2. Deja reposar la masa:
   - en verano, dos horas;
   - en invierno, *cuatro* horas.
3. Hornea a 230 °C.

| Harina | Agua | Tiempo |
|:-------|-----:|:------:|
| trigo | 65 % | 40 min |
| centeno | 80 % | **60 min** |

> Pan con pan, comida de tontos.

La proporción es $h = \\frac{a}{b} * 100$, y con \\(x_1 * x_2\\) se obtiene

\\[
t = 40
- 2 \\cdot n
\\]

```python
def tiempo(n: int) -> int:
    return 40 - 2 * n  # una línea muy larga que no cabe en ningún panel y que por eso tiene que continuar en la línea siguiente
```

Más en [la guía](https://pan.example/guia_de_pan) o en https://pan.example/"""
    + "a" * 300
)
SPANISH_OTHER = """El pan se hace con harina y agua. Mezcla la harina y el agua, y hornea a 230 °C.

Cuesta $5 en la tienda y $6 en la panadería.

- Paso uno
- Paso dos"""
ARABIC = """## طريقة الخبز

لغة Python هي لغة برمجة، ويمكن حساب الوقت بها:

```python
time = 40 - 2 * n  # دقيقة
```

1. اخلط **الدقيق** والماء.
2. اتركه ساعتين (2 hours) في الصيف.

This paragraph is in English, and it says so plainly in a few words.

| المادة | الكمية |
|---|---|
| دقيق | 500 g |

المعادلة $a_1 + b_2$ صحيحة."""
ARABIC_OTHER = "الخبز يُخبز عند الفجر.\nBread is baked at dawn by the bakers of this town.\nاخلط الدقيق والماء."
THAI = "# ขนมปัง\n\n" + "ขนมปังอบตอนรุ่งสางและสุนัขตัวเล็กนอนหลับอยู่ข้างแม่น้ำกว้าง" * 12 + "\n\n- **แป้ง**\n- น้ำ"
KHMER = "## នំប៉័ង\n\n" + "នំប៉័ងត្រូវបានដុតនៅពេលព្រឹកព្រលឹម" * 15 + "\n\n| ឈ្មោះ | ចំនួន |\n|---|---|\n| ម្សៅ | ៥០០ |"
CHINESE = "**面包**在黎明时烤。" * 40 + "\n\n1. 面粉\n2. 水\n\n```\n混合\n```"
ENGLISH = """Bread needs **four** things.

| """ + " | ".join(f"column {number}" for number in range(14)) + " |\n|" + "---|" * 14 + "\n| " + " | ".join(["some words"] * 14) + """ |

""" + "Pneumonoultramicroscopicsilicovolcanoconiosis" * 12 + "\n\nLast words, with &amp; and \\* and <b>HTML</b>."  # fmt: skip
TEXTS = {
    "es": (SPANISH, SPANISH_OTHER), "ar": (ARABIC, ARABIC_OTHER), "th": (THAI, THAI.replace("สุนัข", "แมว")),
    "km": (KHMER, KHMER.replace("ព្រឹក", "ល្ងាច")), "zh": (CHINESE, CHINESE.replace("黎明", "早上")), "en": (ENGLISH, SPANISH_OTHER),
}  # fmt: skip
INSTRUCTIONS = {
    "es": "Explica en **pasos** cómo se hace el pan, con una tabla.", "ar": "اشرح طريقة الخبز **بالخطوات**.", "th": "อธิบายวิธีทำขนมปัง *ทีละขั้น*",
    "km": "ពន្យល់ពីរបៀបធ្វើនំប៉័ង", "zh": "请**分步**说明如何烤面包。", "en": "Explain how bread is made, in *steps*.",
}  # fmt: skip


def formatted_run(tracker: Tracker, folder: Path) -> RunHandle:
    """Two iterations, a prompt in each of six languages."""
    prompts = [Prompt(language, "bread", INSTRUCTIONS[language], INSTRUCTIONS["en"], "synthetic") for language in TEXTS]
    references = write_references(
        folder / "formatted-references", prompts, lambda prompt: TEXTS[prompt.language][1] + "\n\n*Fin.*"
    )
    params = {
        "reference_outputs": str(references),
        "prompts": str(write_prompt_files(folder / "formatted-prompts", prompts)),
    }
    iterations = {
        t: merged(
            evaluated(
                prompts,
                lambda prompt, t=t: TEXTS[prompt.language][t - 1],  # type: ignore[misc]
                lambda prompt: TEXTS[prompt.language][1],
                0.0,
                t,
                params,
            ),
            sampled(prompts, lambda prompt: [*TEXTS[prompt.language], "# Un título\n\nSí."], 4, ("cross-lingual",)),
        )
        for t in (1, 2)
    }
    return log_arm(tracker, "synthetic-formatted", iterations, folder)
