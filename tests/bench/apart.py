"""Several GPUs of one host, used in different ways for the same run: which is quickest?

    python -m tests.bench.apart --model FOLDER --train train.jsonl --root DIR --way two
        [--gpus 0,1] [--steps 20] [--prompts 16] [--answer 300]

`one`: vLLM and TRL on one GPU. `two`: the same on two, half of a step's answers on each (DDP).
`server`: one GPU learns, TRL's vLLM server draws on the other, one after the other. `async`: one
learns and vLLM draws on the other at the same time, up to four steps behind (TRL's
AsyncGRPOTrainer, outside of the lab). Every step has the same number of answers. Prints a line of
JSON. Ways that use other GPUs can be measured side by side.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

from transformers import TrainerCallback

from lab.core.catalog import RECIPES
from lab.core.hardware.engines import commands_elsewhere, plan_of
from lab.core.hardware.machine import Choice
from lab.core.settings import TRL_VLLM, Settings
from lab.services.environment import worker_environment
from lab.services.lab import Lab
from tests.bench import measure
from tests.ports import free_port

WARM = 5  # steps that are left out of the medians
BEHIND = 4  # steps that an answer of `async` may be older than the weights that learn from it
WAYS = ("one", "two", "server", "async")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True, type=Path, help="GSM8K's questions as JSONL")
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--gpus", default="0,1", help="as CUDA numbers them; the first learns")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=16, help="questions a step, 8 answers each")
    parser.add_argument("--answer", type=int, default=300, help="tokens of the longest answer")
    parser.add_argument("--learner", type=Path, help=argparse.SUPPRESS)  # a child of `async`
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.learner:
        print(json.dumps({"seconds": learn_behind(options)}), flush=True)
        os._exit(0)  # threads that talk to the server must not keep the process
    settings = settings_of(options)
    seconds = (beside_a_server(options, settings) if options.way in ("server", "async")
               else of_a_run(options, settings, options.gpus))
    step = statistics.median(seconds[WARM:])
    print(json.dumps({"way": options.way, "steps": len(seconds), "seconds": round(step, 3),
                      "pace": round(8 * options.prompts / step, 1), "each": seconds}), flush=True)


def settings_of(options: argparse.Namespace) -> Settings:
    return RECIPES["gsm8k-small"].settings().with_values({
        "model.name": options.model, "data.path": str(options.train), "data.held_out": 0,
        "train.eval_questions": 0, "train.eval_steps": 0, "train.max_steps": options.steps,
        "train.prompts_per_step": options.prompts, "train.max_completion_length": options.answer,
        "train.answers_at_once": 64, "train.save_steps": 1_000_000,
        "hardware.gpu_memory_utilization": 0.3,
        "hardware.num_processes": 2 if options.way == "two" else 1,
        "hardware.vllm_mode": "server" if options.way == "server" else "colocate"})


def of_a_run(options: argparse.Namespace, settings: Settings, gpus: str) -> list[float]:
    """Seconds of each step of a run of the lab."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    lab = Lab.at(options.root / options.way)
    folder = lab.jobs.start(settings)
    run = lab.jobs.wait(folder.id)
    if run.status != "finished":
        raise SystemExit("\n".join([f"{options.way}: {run.problem}",
                                    *measure.last_lines(lab.workspace.root)]))
    return lab.runs.log(folder.id).curves()["seconds/step"]


def beside_a_server(options: argparse.Namespace, settings: Settings) -> list[float]:
    """The same, or of TRL's asynchronous trainer, with a vLLM server on the second GPU."""
    learns, draws = options.gpus.split(",")
    port = free_port()
    settings = settings.with_values({"hardware.vllm_server": f"127.0.0.1:{port}"})
    more = {"CUDA_VISIBLE_DEVICES": draws, "VLLM_USE_FLASHINFER_SAMPLER": "0"}
    if options.way == "server":
        plan = plan_of(Choice(TRL_VLLM, ""), settings)
        (_, command), = commands_elsewhere(sys.executable, "", options.model, settings, plan)
    else:
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", options.model,
                   "--port", str(port), "--max-model-len", str(settings.model.max_seq_length),
                   "--dtype", "bfloat16", "--gpu-memory-utilization", "0.5", "--enable-lora",
                   "--max-lora-rank", str(settings.lora.rank), "--max-loras", str(BEHIND + 2)]
        more |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    options.root.mkdir(parents=True, exist_ok=True)
    with (options.root / f"{options.way}-server.log").open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT,
                                  start_new_session=True, env=worker_environment() | more)
    try:
        if options.way == "server":  # TRL waits until it is there
            return of_a_run(options, settings, learns)
        folder = measure.run_folder(options.root / "async", settings)
        log = options.root / "async-learner.log"
        with log.open("w") as out:
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.apart", *sys.argv[1:], "--learner",
                 str(folder), "--url", f"http://127.0.0.1:{port}"], stdout=out,
                stderr=subprocess.STDOUT,
                env=worker_environment() | {"CUDA_VISIBLE_DEVICES": learns})
        lines = log.read_text(errors="replace").splitlines()
        if done.returncode:
            raise SystemExit("\n".join(lines[-40:]))
        return json.loads(lines[-1])["seconds"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            measure.end(server)


class Steps(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, *args, **kwargs):
        self.before = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        now = time.perf_counter()
        self.seconds.append(now - self.before)
        self.before = now
        print(f"Step {len(self.seconds)}: {self.seconds[-1]:.2f} s", flush=True)


class Reward:
    """One reward of a run, for the process of its own in which AsyncGRPOTrainer has rewards
    computed: what goes there is pickled, and the lab's rewards are not made for that."""

    def __init__(self, settings: dict, place: int) -> None:
        self.settings, self.place, self.reward = settings, place, None
        self.__name__ = Settings.from_dict(settings).rewards.chosen[place].name

    def __call__(self, **given) -> list[float | None]:
        from lab.core.rewards.scoring import BatchReward

        self.reward = self.reward or BatchReward(
            Settings.from_dict(self.settings).rewards.chosen[self.place])
        return self.reward(**given)


def learn_behind(options: argparse.Namespace) -> list[float]:
    """Seconds of each step of AsyncGRPOTrainer, at the settings of a run."""
    trainer = asynchronous(options.learner, options.root / "async-out",
                           vllm_server_base_url=options.url)
    print("The trainer stands.", flush=True)  # in the log, should it be ended before it is done
    steps = Steps()
    trainer.add_callback(steps)
    trainer.train()
    return steps.seconds


def asynchronous(folder: Path, out: Path, given: dict | None = None, **config):
    """TRL's AsyncGRPOTrainer at the settings of a run's folder; `given` are arguments of its own.

    TRL lets it learn with a kernel from the Hub (flash-attn3). torch's own FlashAttention takes
    its place here: the same attention over the same stream, without the download.
    """
    from peft import LoraConfig
    from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer, async_grpo_trainer

    from lab.backends import wording
    from lab.backends.engines.packed import on
    from tests.bench import given as sides

    reads = {}  # who sees whom in the stream that is read now
    AttentionInterface.register("bench_stream", partial(stream_attention, reads))
    AttentionMaskInterface.register("bench_stream", lambda *args, **kwargs: None)
    create = async_grpo_trainer.create_model_from_path
    async_grpo_trainer.create_model_from_path = lambda path, **kwargs: create(
        path, AutoModelForCausalLM, **kwargs | {"attn_implementation": "bench_stream"})
    settings, path = sides.read(folder)
    train, tokenizer = settings.train, wording.load_tokenizer(path)
    batch = train.per_device_train_batch_size()
    try:
        trainer = AsyncGRPOTrainer(
            model=path, processing_class=tokenizer,
            reward_funcs=[Reward(settings.to_dict(), place)
                          for place in range(len(settings.rewards.chosen))],
            train_dataset=sides.dataset(folder, tokenizer, settings),
            peft_config=LoraConfig(
                r=settings.lora.rank, lora_alpha=settings.lora.alpha, bias="none",
                target_modules=list(settings.lora.target_modules), task_type="CAUSAL_LM"),
            args=AsyncGRPOConfig(**{
                "output_dir": str(out), "dtype": "bfloat16", "bf16": True,
                "per_device_train_batch_size": batch, "token_budget": 0, "report_to": [],
                "gradient_accumulation_steps": train.answers_per_step() // batch,
                "num_generations": train.num_generations, "temperature": train.temperature,
                "max_completion_length": train.max_completion_length,
                "max_steps": train.max_steps, "learning_rate": train.learning_rate,
                "max_staleness": BEHIND, "save_strategy": "no", **config}), **(given or {}))
    finally:
        async_grpo_trainer.create_model_from_path = create

    def begin(module, args, kwargs) -> None:
        positions = kwargs["position_ids"]
        reads["now"] = on(positions.device, sight_of(positions[0].tolist(), positions.is_cuda))

    trainer.model.register_forward_pre_hook(begin, with_kwargs=True)
    return trainer


def sight_of(positions: list[int], on_gpu: bool):
    """Who sees whom in a stream of whole sequences, each of which begins at position 0. To the
    lab's own pass each is a prompt, and the answer to it is empty."""
    from lab.backends.engines.packed import Part, Rectangles, Sequences

    starts = [place for place, position in enumerate(positions) if position == 0]
    parts = []
    for start, end in pairwise([*starts, len(positions)]):
        parts += [Part(start, end - start, None), Part(end, 0, len(parts))]
    return (Sequences if on_gpu else Rectangles).of(parts)


def stream_attention(reads: dict, module, query, key, value, mask, scaling=None, **kwargs):
    """(1, heads, N, size) each, of the stream that is read now."""
    return reads["now"].attend(query[0], key[0], value[0], scaling)[None], None


if __name__ == "__main__":
    main()
