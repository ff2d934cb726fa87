"""The look: gradio's variables for both modes. What is ours alone stands in assets/style.css."""

import gradio as gr
from gradio.themes import LocalFont, sizes
from gradio.themes.utils.colors import Color

# Only these two families of those that gradio ships are whole in Regular and Bold.
SANS = (LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif")
MONO = (LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace")

PINE = Color(name="pine", c50="#eefaf6", c100="#d5f2e8", c200="#aee5d3", c300="#7bd1b8",
             c400="#45b598", c500="#1f987c", c600="#0f7a64", c700="#0d6252", c800="#0d4e43",
             c900="#0c4138", c950="#052520")
SLATE = Color(name="slate", c50="#f7f8f9", c100="#eef0f2", c200="#dfe3e7", c300="#c5ccd3",
              c400="#97a2ad", c500="#6b7784", c600="#515c68", c700="#3e4751", c800="#262d34",
              c900="#191e24", c950="#101418")


def theme() -> gr.themes.Base:
    made = gr.themes.Base(primary_hue=PINE, secondary_hue=PINE, neutral_hue=SLATE,
                          spacing_size=sizes.spacing_md, radius_size=sizes.radius_md,
                          text_size=sizes.text_md, font=SANS, font_mono=MONO)
    return made.set(
        body_background_fill="*neutral_50", body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900", body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="white", background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50", background_fill_secondary_dark="*neutral_950",
        border_color_primary="*neutral_200", border_color_primary_dark="*neutral_800",
        border_color_accent="*primary_600", border_color_accent_dark="*primary_400",
        block_background_fill="white", block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200", block_border_color_dark="*neutral_800",
        block_border_width="1px", block_shadow="none", block_shadow_dark="none",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400",
        block_info_text_size="*text_sm", block_title_text_weight="700",
        block_title_text_size="*text_md", block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_label_text_weight="700", block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        input_background_fill="white", input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_300", input_border_color_dark="*neutral_700",
        input_border_width="1px", input_shadow="none",
        input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_400",
        input_border_color_focus="*primary_600", input_border_color_focus_dark="*primary_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_secondary_text_color="*neutral_800", button_secondary_text_color_dark="*neutral_100",
        button_large_text_weight="700", button_medium_text_weight="700",
        button_small_text_weight="400",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_500",
        checkbox_border_color="*neutral_400", checkbox_border_color_dark="*neutral_500",
        checkbox_border_color_selected="*primary_600",
        checkbox_border_color_selected_dark="*primary_500",
        checkbox_label_text_weight="400", section_header_text_weight="700",
        prose_header_text_weight="700",
        link_text_color="*primary_700", link_text_color_dark="*primary_300",
        button_cancel_background_fill="#a11b1b", button_cancel_background_fill_dark="#a11b1b",
        button_cancel_background_fill_hover="#8a1616",
        button_cancel_background_fill_hover_dark="#b92525",
        button_cancel_border_color="#a11b1b", button_cancel_border_color_dark="#a11b1b",
        button_cancel_text_color="white", button_cancel_text_color_dark="white",
        error_text_color="#a11b1b", error_text_color_dark="#ffb4ab",
        error_border_color="#e3a9a4", error_border_color_dark="#7a2e2a",
        error_background_fill="#fdf1f0", error_background_fill_dark="#2b1615",
        slider_color="*primary_600", slider_color_dark="*primary_400",
    )
