"""The settings of a run as TRL's GRPOConfig takes them."""

from pathlib import Path
from typing import Any

from lab.core.settings import Settings


def arguments(settings: Settings, folder: Path) -> dict[str, Any]:
    """GRPOConfig's values, every one that matters explicit, so that no engine's default differs.

    Where it runs comes from `Engine.arguments`.
    """
    t = settings.train
    processes = settings.hardware.processes()
    return dict(
        output_dir=str(folder / "checkpoints"), max_steps=t.max_steps, seed=t.seed,
        per_device_train_batch_size=t.per_device_train_batch_size(processes),
        gradient_accumulation_steps=t.gradient_accumulation_steps(processes),
        num_generations=t.num_generations, max_completion_length=t.max_completion_length,
        temperature=t.temperature, top_p=t.top_p, top_k=0, repetition_penalty=1.0,
        learning_rate=t.learning_rate, adam_beta1=t.adam_beta1, adam_beta2=t.adam_beta2,
        weight_decay=t.weight_decay, warmup_steps=round(t.warmup_ratio * t.max_steps),
        lr_scheduler_type=t.lr_scheduler_type, optim=t.optim, max_grad_norm=t.max_grad_norm,
        beta=t.beta, loss_type=t.loss_type, scale_rewards=t.scale_rewards, epsilon=t.epsilon,
        epsilon_high=t.epsilon_high, sapo_temperature_pos=t.sapo_temperature_pos,
        sapo_temperature_neg=t.sapo_temperature_neg, num_iterations=t.num_iterations,
        importance_sampling_level=t.importance_sampling_level,
        mask_truncated_completions=t.mask_truncated_completions,
        reward_weights=[c.weight for c in settings.rewards.chosen],
        multi_objective_aggregation=t.multi_objective_aggregation, shuffle_dataset=True,
        dataloader_num_workers=0,
        gradient_checkpointing=settings.lora.gradient_checkpointing != "off",
        gradient_checkpointing_kwargs={"use_reentrant": False},
        save_strategy="steps", save_steps=t.save_steps, logging_strategy="steps",
        logging_steps=min(t.logging_steps, t.max_steps), disable_tqdm=True,
        report_to=[] if t.report_to == "none" else [t.report_to],
        log_completions=False, remove_unused_columns=False)
