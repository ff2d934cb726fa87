"""How an export is loaded, served and trained further: the code and the commands of its card."""

from collections.abc import Sequence

from lab.core.settings import STARTER
from lab.services.export.state import BUNDLE, GGUF, MERGED
from lab.services.runs import Run

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for


def ways(kind: str, run: Run, base: str, hub: bool, files: Sequence[str] = ()) -> list[str]:
    """Lines of Markdown. `hub`: whether the base model is one of the Hub."""
    if kind == MERGED:
        return [*_merged("."), "", *fenced("vllm serve .", "It is a model of its own: ")]
    if kind == GGUF:
        name = files[0] if files else "model.gguf"
        return fenced(f"llama-cli -m {name} -cnv", "llama.cpp: ") + [""] + fenced(
            "ollama create my-model -f Modelfile\nollama run my-model", "Ollama: ")
    where = "adapter" if kind == BUNDLE else "."
    lines = _with_base(run, base, hub, where)
    if kind == BUNDLE:
        lines += ["", "Or merged, as a model of its own:", "", *_merged("merged")]
    return [*lines, "", *fenced(vllm_line(run, place_of(run, base, hub), where),
                                "With vLLM, base and adapter beside each other: ")]


def vllm_line(run: Run, base: str, where: str) -> str:
    """What serves the base model, and the adapter under the name `tuned`."""
    rank = run.settings.lora.rank if run.settings else 64
    room = next((one for one in RANKS if one >= rank), RANKS[-1])
    return (f"vllm serve {base} --enable-lora --max-lora-rank {room} "
            f"--lora-modules tuned={where}")


def fenced(code: str, before: str = "", language: str = "sh") -> list[str]:
    return [*([before.strip(), ""] if before else []), f"```{language}", *code.split("\n"), "```"]


def place_of(run: Run, base: str, hub: bool) -> str:
    """What is given as the base model: its id, or a path that the reader has to fill in."""
    if hub:
        return base
    starter = run.settings is not None and run.settings.model.name.strip() == STARTER
    return "path/to/grpo-lab/assets/starter" if starter else f"path/to/{base}"


def _with_base(run: Run, base: str, hub: bool, where: str) -> list[str]:
    settings = run.settings
    if hub:
        return _loading(base, where)
    if settings is not None and settings.model.name.strip() == STARTER:
        return ["The base model is the starter model that ships with GRPO Lab, in its folder "
                "`assets/starter`. Put the path of that folder in the second line.", "",
                *_loading(place_of(run, base, hub), where)]
    return [f"The base model was a folder named `{base}`. Put its path in the second line.",
            "", *_loading(place_of(run, base, hub), where)]


def _loading(base: str, where: str) -> list[str]:
    return ["```python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f'base = "{base}"',
            f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), '
            f'"{where}")',
            "tokenizer = AutoTokenizer.from_pretrained(base)",
            "```", "", f'`"{where}"` is this folder.' if where == "." else
            f'`"{where}"` is in this folder.']


def _merged(where: str) -> list[str]:
    return ["```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f'model = AutoModelForCausalLM.from_pretrained("{where}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{where}")', "```"]
