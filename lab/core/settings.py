"""Every setting of a run, in frozen groups: form, checks, commands, record, docs derive from it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from lab.core import knobs
from lab.core.insight import losses
from lab.core.insight.advantages import AGGREGATIONS, SCALES, SUM_FIRST
from lab.core.knobs import Setting, knob
from lab.core.models.modules import ALL_LINEAR, PROJECTIONS, wrong_targets
from lab.core.models.template import wrong_arguments
from lab.core.problems import BadSettings
from lab.core.prompts import SYSTEM_PROMPT
from lab.core.rewards.chosen import Chosen, check_chosen, parse_chosen
from lab.core.task import DEFAULT_LEVEL, LEVELS

STARTER = "starter"
AUTO = "auto"  # the lab chooses, and says what


@dataclass(frozen=True)
class Model:
    """Which model learns, and how it is loaded."""

    name: str = knob(STARTER, "Model", "'starter' (ships with the lab), a Hub id such as "
                     "Qwen/Qwen2.5-1.5B-Instruct, or a folder with config.json and safetensors.")
    max_seq_length: int = knob(1024, "Longest sequence", "Tokens of prompt and answer together.",
                               low=64, high=131072, step=64)
    load_in_4bit: bool = knob(False, "Load in 4 bit", "Quantise the base model to 4 bit (nf4): a "
                              "quarter of the memory. Needs an NVIDIA GPU.")
    fast_inference: bool = knob(False, "Fast inference (vLLM)", "Answer with vLLM inside Unsloth "
                                "while training. Needs an NVIDIA GPU.")
    chat_template_kwargs: str = knob("", "Template arguments", "For the model's chat template, "
                                     "such as enable_thinking=false; several with commas between.",
                                     advanced=True, refuses=wrong_arguments)


@dataclass(frozen=True)
class Lora:
    """The adapter that is trained."""

    rank: int = knob(16, "Rank (r)", "Width of the adapter: more can learn more and weighs more.",
                     low=1, high=512, step=1)
    alpha: int = knob(32, "Alpha", "Scale of the adapter: its update counts alpha / rank.",
                      low=1, high=1024, step=1)
    target_modules: tuple[str, ...] = knob(
        PROJECTIONS, "Target modules", "The linear layers that get an adapter: by the names that "
        "this model has for them, or 'all-linear'.", choices=(ALL_LINEAR, *PROJECTIONS), open=True,
        refuses=wrong_targets)
    begin_from: str = knob("", "Begin from", "An adapter to go on from: the id of a run, RUN:STEP "
                           "for one of its checkpoints, or a folder. Empty: a new one.",
                           advanced=True)
    gradient_checkpointing: str = knob("off", "Gradient checkpointing", "Recompute activations to "
                                       "save memory: slower. 'unsloth' is Unsloth's own; 'auto': "
                                       "off where there is memory to keep them.",
                                       choices=("auto", "off", "on", "unsloth"), advanced=True)
    random_state: int = knob(3407, "Adapter seed (random_state)", "Seed of the adapter's first "
                             "weights.", low=0, high=2**31 - 1, step=1, advanced=True)


WORD_PROBLEMS, REASONING_GYM = "word-problems", "reasoning-gym"
SOURCES = (WORD_PROBLEMS, "gsm8k", REASONING_GYM, "hub", "file")
MADE = (WORD_PROBLEMS, REASONING_GYM)  # made here, from nothing that lies anywhere
COLUMN, AFTER_HASHES, BOXED, LAST_NUMBER, LETTER = (
    "column", "after ####", "boxed", "last number", "letter")
EXTRACTIONS = (AUTO, COLUMN, AFTER_HASHES, BOXED, LAST_NUMBER, LETTER)


@dataclass(frozen=True)
class Data:
    """The prompts that are learnt from, and those that are held out."""

    source: str = knob(WORD_PROBLEMS, "Source", "The lab's own word problems, GSM8K, tasks of the "
                       "package reasoning-gym where it is installed, any dataset of the Hub, or a "
                       "file of yours.", choices=SOURCES)
    level: int = knob(DEFAULT_LEVEL, "Level", "Difficulty of the lab's own word problems.",
                      choices=tuple(LEVELS))
    tasks: str = knob("chain_sum", "Tasks", "Of reasoning-gym, by its names for them; of several, "
                      "with commas between, as many questions each.")
    difficulty: int = knob(-1, "Difficulty", "Up to which level of its curriculum a task of "
                           "reasoning-gym goes, 0 the easiest. -1: the task as it comes.", low=-1,
                           high=1000, step=1)
    path: str = knob("", "Hub id or file", "For 'hub': owner/name, or a folder with a copy. For "
                     "'file': CSV, JSON, JSONL, Parquet or Excel, also as .gz. For 'gsm8k': empty, "
                     "or a local copy.")
    subset: str = knob("", "Configuration", "Name of the Hub dataset's configuration, if it has "
                       "several.", advanced=True)
    split: str = knob("train", "Split", "Split of the Hub dataset, or the table of a file that "
                      "holds several.", advanced=True)
    question_column: str = knob(AUTO, "Question column", "Text or a conversation; a field of a "
                                "column as column.field. 'auto': by the names and what is in them.")
    answer_column: str = knob(AUTO, "Answer column", "Where the reference answer stands; several "
                              "in a list are each right. Empty: none, for rewards that need none.")
    answer_extraction: str = knob(AUTO, "Reference answer", "The whole column; of it the line "
                                  "after the last ####, the last \\boxed{} or the last number; or "
                                  "the letter of the option it names.", choices=EXTRACTIONS)
    template: str = knob(AUTO, "Prompt template", "What is asked, with columns in braces, such as "
                         "{instruction} above {input}. Empty: the question column alone.", lines=3)
    system_prompt: str = knob(SYSTEM_PROMPT, "System prompt", "What the model is told before each "
                              "question. Empty: nothing.", lines=4)
    rows: int = knob(2000, "Rows", "Questions to train on, at most. 0 means all there are.",
                     low=0, high=10_000_000, step=1)
    held_out: int = knob(200, "Held-out rows", "Questions kept aside for evaluation, at most; "
                         "none of them is trained on.", low=0, high=100_000, step=1)
    held_out_share: float = knob(0.2, "Held-out share", "Of a small table no larger share than "
                                 "this is kept aside.", above=0, high=0.9, step=0.05,
                                 advanced=True)
    leave_out: str = knob("", "Left-out questions", "Questions that are not trained on, one a "
                          "line: those that a preflight found too easy or too hard.", lines=3,
                          advanced=True)


def listed(names: str) -> list[str]:
    """Names with commas between, each once."""
    return list(dict.fromkeys(name for one in names.split(",") if (name := one.strip())))


@dataclass(frozen=True)
class Rewards:
    """What is rewarded, and how much each counts."""

    chosen: tuple[Chosen, ...] = knob(
        tuple(Chosen(name) for name in
              ("xmlcount", "soft_format", "strict_format", "int", "correctness")),
        "Rewards", "NAME[:weight=W][:param=V],... The weighted sum is what the model learns from.")
    file: str = knob("", "File of own rewards", "A Python file with rewards of your own, to be "
                     "chosen by their names. It is run, in a limited child; needs --allow-code.",
                     advanced=True)

    def __post_init__(self) -> None:
        if all(isinstance(one, Chosen) for one in self.chosen):
            object.__setattr__(self, "chosen",
                               tuple(one.bound_to(self.file) for one in self.chosen))

    @property
    def own(self) -> tuple[Chosen, ...]:
        """Those that come from the file."""
        return tuple(one for one in self.chosen if one.file)


REPORTERS = ("none", "tensorboard", "wandb", "trackio")


@dataclass(frozen=True)
class Train:
    """How the policy learns. Names are TRL's `GRPOConfig` fields where it has one."""

    max_steps: int = knob(250, "Steps", "Updates of the adapter.", low=1, high=1_000_000, step=1)
    num_generations: int = knob(8, "Answers per question (group size)", "GRPO compares the answers "
                                "to one question with each other.", low=2, high=128, step=1)
    prompts_per_step: int = knob(8, "Questions per step", "Groups in one update; batch and "
                                 "accumulation follow from this.", low=1, high=4096, step=1)
    max_prompt_length: int = knob(256, "Longest prompt", "Tokens. Questions with longer prompts "
                                  "are left out, counted and shown.", low=8, high=131072, step=8)
    max_completion_length: int = knob(256, "Longest answer", "Tokens. Longer answers are cut.",
                                      low=8, high=131072, step=8)
    learning_rate: float = knob(5e-6, "Learning rate", "Size of a step at its largest.",
                                above=0, high=1)
    temperature: float = knob(1.0, "Rollout temperature", "How varied the answers of a group are. "
                              "0 would make them all alike.", low=0.01, high=10, step=0.05)
    top_p: float = knob(1.0, "Rollout top-p", "Draw from the likeliest tokens that make up this "
                        "share.", above=0, high=1, step=0.01, advanced=True)
    beta: float = knob(0.0, "KL weight (beta)", "Pull towards the base model. 0: none, and no "
                       "reference is computed.", low=0, high=10, step=0.01)
    kl_target: float = knob(0.0, "KL target", "Nats a token. 0: beta stays as it is. Above 0: beta "
                            "is raised while the answers are further from the base model, and "
                            "lowered while they are nearer (Ziegler et al. 2019).", low=0, high=100,
                            step=0.005, advanced=True)
    loss_type: str = knob("dapo", "Loss", "How token losses are averaged, and what holds a ratio "
                          "that has moved: a clip, in 'cispo' a cap, in 'sapo' a soft gate.",
                          choices=tuple(losses.ALL), advanced=True)
    scale_rewards: str = knob("group", "Scale advantages by", "Standard deviation of the group, of "
                              "the batch, or not at all.", choices=SCALES, advanced=True)
    multi_objective_aggregation: str = knob(
        SUM_FIRST, "How rewards come together", "'sum_then_normalize': each answer's weighted sum "
        "is compared. 'normalize_then_sum' (GDPO): each reward is brought to one scale in its "
        "group first, so that only weights say how much it counts.", choices=AGGREGATIONS,
        advanced=True)
    epsilon: float = knob(0.2, "Clip below (epsilon)", "Lower clip of the probability ratio.",
                          above=0, high=1, step=0.01, advanced=True)
    epsilon_high: float = knob(0.2, "Clip above (epsilon_high)", "Upper clip of the probability "
                               "ratio; DAPO uses 0.28. With the loss 'cispo' the largest ratio "
                               "itself: 5, say.", above=0, high=10, step=0.01, advanced=True)
    sapo_temperature_pos: float = knob(losses.SAPO_UP, "SAPO, gate above 0", "With the loss "
                                       "'sapo': how soon the push of an answer that is better than "
                                       "its group fades as its ratio moves.", above=0, high=100,
                                       step=0.05, advanced=True)
    sapo_temperature_neg: float = knob(losses.SAPO_DOWN, "SAPO, gate below 0", "The same of an "
                                       "answer that is worse; the paper takes more, because these "
                                       "pushes are less steady.", above=0, high=100, step=0.05,
                                       advanced=True)
    num_iterations: int = knob(1, "Updates per rollout", "How often each batch of answers is used.",
                               low=1, high=16, step=1, advanced=True)
    importance_sampling_level: str = knob("token", "Importance sampling", "Ratio per token, or per "
                                          "sequence (GSPO).", choices=("token", "sequence"),
                                          advanced=True)
    mask_truncated_completions: bool = knob(False, "Leave cut answers out of the loss", "Answers "
                                            "that hit the length limit teach nothing.",
                                            advanced=True)
    optim: str = knob("adamw_torch", "Optimiser", "The 8-bit ones need an NVIDIA GPU.",
                      choices=("adamw_torch", "adamw_torch_fused", "adamw_8bit",
                               "paged_adamw_8bit"), advanced=True)
    adam_beta1: float = knob(0.9, "Adam beta 1", "Memory of the gradient's mean.", low=0,
                             high=0.9999, step=0.01, advanced=True)
    adam_beta2: float = knob(0.99, "Adam beta 2", "Memory of the gradient's square.", low=0,
                             high=0.99999, step=0.001, advanced=True)
    weight_decay: float = knob(0.1, "Weight decay", "Pull of the adapter's weights to zero.",
                               low=0, high=10, step=0.01, advanced=True)
    warmup_ratio: float = knob(0.1, "Warm-up", "Share of the steps in which the learning rate "
                               "rises.", low=0, high=0.9, step=0.01, advanced=True)
    lr_scheduler_type: str = knob("cosine", "Schedule", "How the learning rate falls after the "
                                  "warm-up.", choices=("cosine", "linear", "constant",
                                                       "constant_with_warmup"), advanced=True)
    max_grad_norm: float = knob(0.1, "Gradient clip", "Largest norm of the gradient.", above=0,
                                high=1000, step=0.1, advanced=True)
    answers_at_once: int = knob(64, "Answers at once", "At most so many answers in one forward and "
                                "backward pass; fewer need less memory. Batch and accumulation "
                                "follow.", low=1, high=4096, step=1, advanced=True)
    save_steps: int = knob(50, "Checkpoint every", "Steps.", low=1, high=1_000_000, step=1)
    save_total_limit: int = knob(5, "Checkpoints kept", "Older ones are deleted, but never "
                                 "the best on held-out questions.", low=1, high=1000,
                                 step=1, advanced=True)
    eval_steps: int = knob(0, "Evaluate every", "Steps. Held-out questions are answered, "
                           "greedily. 0: as often as a share of the time allows.", low=0,
                           high=1_000_000, step=1)
    eval_share: float = knob(0.1, "Evaluation's share of the time", "At most so much, where "
                             "'Evaluate every' is 0. 0: no evaluation while it trains.",
                             low=0, high=0.9, step=0.01, advanced=True)
    eval_questions: int = knob(100, "Questions of an evaluation", "At most; the last held-out "
                               "ones. 0: all. With 100, chance moves a share by about 5 points.",
                               low=0, high=100_000, step=1, advanced=True)
    stop_at: float = knob(0.0, "Stop at", "End the run once the held-out questions reach this "
                          "share of the goal, such as 0.8. 0: never.", low=0, high=1, step=0.05,
                          advanced=True)
    patience: int = knob(0, "Stop after a plateau", "End the run after so many evaluations in a "
                         "row without a new best. 0: never. Chance makes plateaus: take 3 or more.",
                         low=0, high=1000, step=1, advanced=True)
    logging_steps: int = knob(1, "Point every", "Steps between two points of the curves.", low=1,
                              high=1000, step=1, advanced=True)
    log_groups: int = knob(2, "Groups recorded", "Groups per point whose answers are kept in the "
                           "run's folder.", low=1, high=4096, step=1, advanced=True)
    report_to: str = knob("none", "Report to", "Also send the metrics there; the package must be "
                          "installed.", choices=REPORTERS, advanced=True)
    seed: int = knob(3407, "Seed", "Order of the questions and drawing of the answers.", low=0,
                     high=2**31 - 1, step=1)

    @property
    def evaluates(self) -> bool:
        """Whether held-out questions are to be answered while it trains."""
        return self.eval_steps > 0 or self.eval_share > 0

    def answers_per_step(self) -> int:
        return self.num_generations * self.prompts_per_step

    def answers_of_a_process(self, processes: int = 1) -> int:
        return max(1, self.answers_per_step() // processes)

    def per_device_train_batch_size(self, processes: int = 1) -> int:
        """The largest divisor of a process's answers of a step that is at most `answers_at_once`.

        Any divisor keeps TRL's rule: batch x accumulation x processes = answers per step, which
        is a multiple of the group size.
        """
        own = self.answers_of_a_process(processes)
        return max(b for b in range(1, min(self.answers_at_once, own) + 1) if own % b == 0)

    def gradient_accumulation_steps(self, processes: int = 1) -> int:
        return (self.answers_of_a_process(processes)
                // self.per_device_train_batch_size(processes))


@dataclass(frozen=True)
class Sampling:
    """How Compare draws its answers."""

    temperature: float = knob(0.8, "Temperature", "0 takes the likeliest token each time.", low=0,
                              high=10, step=0.05)
    top_p: float = knob(0.95, "Top-p", "Draw from the likeliest tokens that make up this share.",
                        above=0, high=1, step=0.01)
    max_tokens: int = knob(1024, "Longest answer", "Tokens.", low=1, high=131072, step=1)


STACKS = ("auto", "cpu", "gpu")
CPU, TRL, TRL_VLLM, UNSLOTH = "cpu", "trl", "trl-vllm", "unsloth"
ENGINES = ("auto", UNSLOTH, TRL_VLLM, TRL)
SWITCH = ("auto", "on", "off")
GRAPHS = ("auto", "off", "decode", "full")
SHARDINGS = ("ddp", "fsdp", "zero3")
VLLM_MODES = ("colocate", "server")


@dataclass(frozen=True)
class Hardware:
    """Where it runs."""

    stack: str = knob("auto", "Stack", "'auto' takes the GPU if there is one.", choices=STACKS)
    engine: str = knob("auto", "Engine", "What trains on a GPU. 'auto' tries Unsloth + vLLM, then "
                       "TRL + vLLM, then TRL alone, and says why.", choices=ENGINES)
    threads: int = knob(0, "CPU threads", "0 means one per core.", low=0, high=1024, step=1,
                        advanced=True)
    gpu_memory_utilization: float = knob(0.6, "GPU share of vLLM", "Share of the GPU's memory that "
                                         "vLLM takes.", above=0, high=0.98, step=0.01,
                                         advanced=True)
    compile_loss: str = knob("auto", "Compile the loss", "Unsloth's compiled loss: slow to start, "
                             "and no quicker where it was measured.", choices=SWITCH,
                             advanced=True)
    cuda_graphs: str = knob("auto", "CUDA graphs in vLLM", "Quicker answers for a slower start. "
                            "'decode': of single tokens only, 'full': with torch.compile. 'auto' "
                            "counts whether the run is long enough.", choices=GRAPHS,
                            advanced=True)
    num_processes: int = knob(1, "GPUs", "Of this host. More than one trains with TRL under "
                              "`accelerate launch`.", low=1, high=64, step=1)
    sharding: str = knob("ddp", "Over several GPUs", "'ddp': the whole base on each. 'fsdp' or "
                         "'zero3' (DeepSpeed): cut in parts, where it does not fit on one.",
                         choices=SHARDINGS, advanced=True)
    vllm_mode: str = knob("colocate", "vLLM runs", "'colocate': on the GPUs that train. 'server': "
                          "`trl vllm-serve` on GPUs of its own.", choices=VLLM_MODES, advanced=True)
    vllm_server: str = knob("127.0.0.1:8000", "vLLM server", "host:port of `trl vllm-serve`, for "
                            "'server'.", advanced=True)
    num_machines: int = knob(1, "Hosts", "Hosts that train together; each needs the same files.",
                             low=1, high=1024, step=1, advanced=True)
    main_process_ip: str = knob("", "Address of the first host", "For several hosts.",
                                advanced=True)
    main_process_port: int = knob(29500, "Port of the first host", "For several hosts.", low=1,
                                  high=65535, step=1, advanced=True)

    def processes(self) -> int:
        """Training processes over all hosts."""
        return self.num_processes * self.num_machines

    def whole(self) -> bool:
        """Whether each process has the whole base, and so can answer by itself."""
        return self.sharding == "ddp" or self.processes() == 1


@dataclass(frozen=True)
class Settings:
    """All groups of one run."""

    model: Model = Model()
    lora: Lora = Lora()
    data: Data = Data()
    rewards: Rewards = Rewards()
    train: Train = Train()
    sampling: Sampling = Sampling()
    hardware: Hardware = Hardware()

    def to_dict(self) -> dict:
        """Plain JSON values: {"model": {"name": ...}, ...}."""
        return {group: {s.name: _plain(self.get(s.key)) for s in members}
                for group, members in GROUPS.items()}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Settings":
        """Settings from plain JSON values; what is left out keeps its default.

        Raises BadSettings on an unknown name or a value that cannot be.
        """
        if not isinstance(tree, Mapping):
            raise BadSettings("The settings cannot be read.", "They must be one JSON object with "
                              f"the groups {', '.join(GROUPS)}.")
        values = {}
        for group, members in tree.items():
            if group not in GROUPS or not isinstance(members, Mapping):
                raise BadSettings(f"There is no group of settings {group!r}.",
                                  f"There are {', '.join(GROUPS)}.")
            values |= {f"{group}.{name}": value for name, value in members.items()}
        return cls().with_values(values)

    def with_values(self, values: Mapping[str, Any]) -> "Settings":
        """A copy with {"train.beta": 0.04, ...} set. Raises BadSettings for the first bad one."""
        changed: dict[str, dict[str, Any]] = {}
        file = values.get("rewards.file", self.rewards.file)
        for key, value in values.items():
            setting = setting_named(key)
            there = getattr(getattr(self, setting.group), setting.name)
            if type(value) is type(there) is not tuple and value == there:
                continue  # it was checked when it came there; a record holds mostly such
            value = _settled(setting, value, file)
            wrong = problem_of(setting, value)
            if wrong:
                raise BadSettings(f"'{setting.knob.label}' ({key}) {wrong}.", field=key)
            changed.setdefault(setting.group, {})[setting.name] = value
        return replace(self, **{group: replace(getattr(self, group), **members)
                                for group, members in changed.items()})

    def get(self, key: str) -> Any:
        group, name = key.split(".")
        return getattr(getattr(self, group), name)

    def differences(self, other: "Settings") -> dict[str, tuple[Any, Any]]:
        """{"train.beta": (mine, other's)} for every setting that is not the same."""
        return {s.key: (self.get(s.key), other.get(s.key)) for s in ALL
                if self.get(s.key) != other.get(s.key)}


GROUPS: dict[str, list[Setting]] = {
    f.name: knobs.settings_of(f.name, type(f.default)) for f in fields(Settings)
}
ALL: list[Setting] = [setting for members in GROUPS.values() for setting in members]
_BY_KEY = {setting.key: setting for setting in ALL}


def setting_named(key: str) -> Setting:
    if key not in _BY_KEY:
        group = key.split(".")[0]
        known = [s.key for s in GROUPS.get(group, [])] or list(GROUPS)
        raise BadSettings(f"There is no setting {key!r}.", f"There are {', '.join(known)}.")
    return _BY_KEY[key]


def read_assignment(text: str, file: str = "") -> tuple[str, Any]:
    """`group.field=value` from the command line; `file` is the `rewards.file` that holds where
    rewards are chosen. Raises BadSettings."""
    key, equals, value = text.partition("=")
    if not equals:
        raise BadSettings(f"{text!r} is not a setting.", "It must be written group.field=value.")
    setting = setting_named(key.strip())
    if setting.key == "rewards.chosen":
        try:
            return setting.key, parse_chosen(value, file)
        except ValueError as error:
            raise BadSettings(str(error), field=setting.key) from error
    try:
        return setting.key, knobs.read(value, setting.kind)
    except ValueError as error:
        raise BadSettings(f"'{setting.knob.label}' ({setting.key}) {error}.",
                          field=setting.key) from error


def problem_of(setting: Setting, value: Any) -> str | None:
    """Half a sentence that says why this value cannot be, or None."""
    if setting.key == "rewards.chosen":
        wrong = check_chosen(value)
        return f"cannot be used: {' '.join(wrong)}".rstrip(".") if wrong else None
    try:
        return _problem_with(setting.key, value)
    except TypeError:  # a value that cannot be kept
        return knobs.problem_with(value, setting.kind, setting.knob)


@functools.lru_cache(maxsize=4096, typed=True)
def _problem_with(key: str, value: Any) -> str | None:
    """Kept: a list of runs reads the same few values hundreds of times."""
    return knobs.problem_with(value, _BY_KEY[key].kind, _BY_KEY[key].knob)


def _settled(setting: Setting, value: Any, file: Any) -> Any:
    if setting.key == "rewards.chosen":
        file = file if isinstance(file, str) else ""
        try:
            return tuple(v.bound_to(file) if isinstance(v, Chosen) else Chosen.from_dict(v, file)
                         for v in value)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadSettings("The rewards cannot be read.", str(error),
                              field=setting.key) from error
    return knobs.settle(value, setting.kind)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [v.to_dict() if isinstance(v, Chosen) else v for v in value]
    return value
