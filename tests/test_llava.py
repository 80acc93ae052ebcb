"""The multimodal teacher: its conversations with a model that is a stub, and with a real one of random weights."""

import sys

import numpy as np
import pytest
import torch
from tiny import noise

from ravl_core import hub
from ravl_core._torchvision import ensure_importable
from ravl_core.language import llava
from ravl_core.language.cached import describe
from ravl_core.language.description import Description
from ravl_core.language.llava import LlavaTeacher
from ravl_core.language.prompts import Scaffold, background_prompts, object_prompts, with_scaffold

ANSWERS = ("A gull.", "Gull, webbed feet", "The sea.", "Sea. Sky")


class Inputs(dict):
    """What a processor returns; its `to` notes where it was sent."""

    def to(self, *target):
        self.target = target
        return self


class Stub:
    """Processor and model at once: notes all that it is given and returns the next answer."""

    dtype = torch.bfloat16

    def __init__(self, *answers):
        self.answers, self.turns, self.images, self.options = list(answers), [], [], []

    def apply_chat_template(self, turns, add_generation_prompt):
        assert add_generation_prompt
        self.turns.append(
            [(turn["role"], *[part.get("text", part["type"]) for part in turn["content"]]) for turn in turns]
        )
        return f"prompt {len(self.turns)}"

    def __call__(self, images, text, return_tensors):
        assert text == f"prompt {len(self.turns)}" and return_tensors == "pt"
        self.images.append(np.asarray(images))
        self.inputs = Inputs(input_ids=torch.tensor([[7, 8, 9]]))
        return self.inputs

    def generate(self, input_ids, **options):
        assert self.inputs.target == ("cpu", torch.bfloat16) and torch.is_inference_mode_enabled()
        self.options.append(options)
        return torch.tensor([[7, 8, 9, 1, 2]])

    def decode(self, tokens, skip_special_tokens):
        assert tokens.tolist() == [1, 2] and skip_special_tokens
        return f" {self.answers.pop(0)}\n"


def answering(*answers, **options):
    """A teacher whose model is a stub, and the stub."""
    teacher, stub = LlavaTeacher(**options), Stub(*answers)
    vars(teacher)["_loaded"] = stub, stub
    return teacher, stub


# ---- with a stub ----


def test_keywords_are_those_of_the_second_answers():
    teacher, _ = answering(*ANSWERS)
    description = teacher(noise(1)[0], "waterbird")
    assert description == Description(("gull", "webbed feet"), ("sea", "sky"))
    assert description.raw == ANSWERS


def test_the_second_turn_holds_the_first_and_each_conversation_begins_with_the_image():
    teacher, stub = answering(*ANSWERS, kind="fish")
    teacher(noise(1)[0], "carp")
    expected = []
    for (first, second), answer in [
        (object_prompts("fish", "carp"), "A gull."),
        (background_prompts("fish"), "The sea."),
    ]:
        begin = ("user", "image", first)
        expected += [[begin], [begin, ("assistant", answer), ("user", second)]]
    assert stub.turns == expected


def test_decoding_is_greedy_and_as_long_as_asked():
    teacher, stub = answering(*ANSWERS, max_new_tokens=9)
    image = noise(1, 20, 30)[0]
    teacher(image)
    assert stub.options == [{"do_sample": False, "max_new_tokens": 9}] * 4
    assert len(stub.images) == 4 and all(np.array_equal(seen, image) for seen in stub.images)


def test_a_scaffold_is_laid_over_the_image_and_explained():
    scaffold = Scaffold(lambda image: 255 - image, rows=2, columns=3)
    teacher, stub = answering(*ANSWERS, scaffold=scaffold)
    image = noise(1)[0]
    teacher(image)
    assert np.array_equal(stub.images[0], 255 - image)
    assert stub.turns[0][0][2] == with_scaffold(object_prompts("bird"), scaffold)[0]
    assert stub.turns[2][0][2] == with_scaffold(background_prompts("bird"), scaffold)[0]


def test_an_answer_without_keywords_is_an_error():
    teacher, _ = answering("A gull.", "Gull", "Nothing.", " . ")
    with pytest.raises(ValueError, match="background: expected at least one keyword"):
        teacher(noise(1)[0])


def test_whatever_changes_the_answers_changes_the_name(tmp_path):
    def scaffold(rows):
        return Scaffold(lambda image: image, rows)

    options = [{}, {"model": "a/b"}, {"kind": "fish"}, {"dtype": "float32"}, {"max_new_tokens": 7},
               {"scaffold": scaffold(3)}, {"scaffold": scaffold(4)}]  # fmt: skip
    assert len({LlavaTeacher(**each).name for each in options}) == len(options)
    assert LlavaTeacher(device="cuda").name == LlavaTeacher().name
    assert LlavaTeacher(str(tmp_path)).name.startswith(f"{tmp_path.name} ")


def test_other_prompts_have_another_name_whether_or_not_a_class_is_told(monkeypatch):
    names = {LlavaTeacher().name}
    for reworded in (
        lambda kind, class_name=None: object_prompts(kind, class_name and f"true {class_name}"),
        lambda kind, class_name=None: object_prompts(kind, class_name or "something"),
    ):
        monkeypatch.setattr(llava, "object_prompts", reworded)
        names.add(LlavaTeacher().name)
    monkeypatch.setattr(llava, "background_prompts", lambda kind: background_prompts("thing"))
    assert len({*names, LlavaTeacher().name}) == 4


def test_a_length_below_one_is_refused():
    with pytest.raises(ValueError, match="max_new_tokens: expected an integer of 1 or more, got 0"):
        LlavaTeacher(max_new_tokens=0)


def test_answers_in_a_file_need_no_model(tmp_path, monkeypatch):
    teacher, _ = answering(*ANSWERS)
    found = describe(teacher, noise(1), path=tmp_path / "answers.jsonl")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert describe(LlavaTeacher(), noise(1), path=tmp_path / "answers.jsonl") == found


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"LlavaTeacher needs transformers: pip install 'ravl-core\[llava\]'"):
        LlavaTeacher()(noise(1)[0])


# ---- with transformers ----

WORDS = "<unk> <s> </s> <image> user assistant . , beak water sky sand red blue".split()
TEMPLATE = (
    "{% for turn in messages %}{{ turn['role'] }} {% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


@pytest.fixture(scope="module")
def transformers():
    ensure_importable()
    return pytest.importorskip("transformers", reason="the llava extra is not installed")


def tiny_processor(transformers):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return transformers.LlavaProcessor(images, tokenizer, chat_template=TEMPLATE, **options)


@pytest.fixture(scope="module")
def folder(transformers, tmp_path_factory):
    """A LLaVA of random weights with fourteen words, as the hub would hold it."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**sizes, image_size=32, patch_size=8)
    tokens = {"vocab_size": len(WORDS), "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 2}
    text = transformers.LlamaConfig(**sizes, **tokens, max_position_embeddings=256, initializer_range=0.5)
    torch.manual_seed(0)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=WORDS.index("<image>"))
    folder = tmp_path_factory.mktemp("tiny-llava")
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    tiny_processor(transformers).save_pretrained(folder)
    return folder


def test_a_real_model_says_some_of_its_words_and_the_same_ones_again(folder):
    image = noise(1, 40, 50)[0]
    teacher = LlavaTeacher(str(folder), max_new_tokens=6)
    answers = teacher._answers(image, object_prompts("bird", "waterbird"))
    assert all(len(answer.split()) <= 6 and set(answer.split()) <= set(WORDS) for answer in answers)
    assert any(answers), "it says nothing"
    again = LlavaTeacher(str(folder), max_new_tokens=6)
    assert again._answers(image, object_prompts("bird", "waterbird")) == answers
    assert not teacher._loaded[1].training


def test_the_real_prompt_holds_the_image_once_for_each_of_its_patches(folder, monkeypatch):
    teacher, seen = LlavaTeacher(str(folder), max_new_tokens=1), []
    model = teacher._loaded[1]
    generate = model.generate

    def note(**inputs):
        seen.append(inputs)
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", note)
    teacher._answers(noise(1, 40, 50)[0], background_prompts("bird"))
    for inputs in seen:
        assert (inputs["input_ids"] == WORDS.index("<image>")).sum() == (32 // 8) ** 2
        assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    assert seen[0]["input_ids"].shape[1] < seen[1]["input_ids"].shape[1]


def test_the_real_answer_depends_on_the_image_and_the_type_of_numbers_on_the_option(folder):
    teacher = LlavaTeacher(str(folder), dtype="bfloat16", max_new_tokens=12)
    assert teacher._loaded[1].dtype == torch.bfloat16
    answers = {teacher._answers(image, object_prompts("bird")) for image in noise(4, 32, 32)}
    assert len(answers) > 1


def test_a_model_that_is_not_at_hand_is_refused_at_once(transformers, monkeypatch):
    with pytest.raises(ConnectionError, match="no/such: .*HF_HUB_OFFLINE forbids.*local folder"):
        LlavaTeacher("no/such")(noise(1)[0])
    monkeypatch.setattr(hub.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "why_unreachable", lambda url: "no route")
    with pytest.raises(ConnectionError, match="no/such: .*no route"):
        LlavaTeacher("no/such")(noise(1)[0])


def test_a_folder_without_weights_is_an_error_that_asks_no_hub(folder, tmp_path, monkeypatch):
    for name in folder.iterdir():
        if name.suffix != ".safetensors":
            (tmp_path / name.name).write_bytes(name.read_bytes())
    monkeypatch.setattr(hub, "why_unreachable", lambda url: pytest.fail("asked the hub"))
    with pytest.raises(OSError, match="model.safetensors"):
        LlavaTeacher(str(tmp_path))(noise(1)[0])
