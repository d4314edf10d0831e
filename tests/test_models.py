import json

import pytest
import torch
from conftest import make_tokenizer

from uqlib.models import (
    as_chat,
    encode_prompts,
    load_model,
    option_tokens,
    prompt_option_tokens,
    tokenizer_hash,
)
from uqlib.paths import model_name
from uqlib.prompts import render

PROMPT = render("Tea?", ["yes", "no"], ["A", "B"])


def test_a_label_is_the_token_the_tokenizer_makes_in_context(tokenizer):
    tokens = option_tokens(tokenizer, PROMPT, ["A", "B"])
    joint = tokenizer(PROMPT + " B", add_special_tokens=False).input_ids
    assert tokens == [tokenizer.convert_tokens_to_ids(["ĠA"]), [joint[-1]]]


def test_sum_holds_every_one_token_spelling(tokenizer):
    tokens = option_tokens(tokenizer, PROMPT, ["A"], "sum")[0]
    assert sorted(tokenizer.convert_ids_to_tokens(tokens)) == sorted(["A", "a", "ĠA", "Ġa"])


def test_a_label_that_is_not_one_token_is_refused_with_a_style_that_works():
    with pytest.raises(ValueError, match=r"' A' .*not exactly one token.*\"bare\" works"):
        option_tokens(make_tokenizer(space_labels=False), PROMPT, ["A", "B"])


def test_a_label_that_no_style_can_spell_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no label style works"):
        option_tokens(tokenizer, PROMPT, ["QX"])


def test_a_label_that_changes_the_prompt_is_refused():
    # The tokenizer joins the prompt's last character and the label into one token.
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([":A"])
    assert option_tokens(tokenizer, PROMPT, ["A"], "space")
    with pytest.raises(ValueError, match="not exactly one token"):
        option_tokens(tokenizer, PROMPT, ["A"], "bare")


def test_many_prompts_get_the_same_tokens_as_each_alone(tokenizer, questions):
    prompts = [render(r.text, r.choices, r.labels) for r in questions.itertuples()]
    labels = list(questions.labels)
    found = prompt_option_tokens(tokenizer, prompts, labels, "survey", "space")
    assert found == [option_tokens(tokenizer, p, x) for p, x in zip(prompts, labels, strict=True)]


def test_published_prompts_take_bare_labels_only(tokenizer):
    prompt = render("Tea?", ["yes", "no"], ["A", "B"], "survey_published")
    found = prompt_option_tokens(tokenizer, [prompt], [["A", "B"]], "survey_published", "bare")
    assert found == [[[i] for i in tokenizer.convert_tokens_to_ids(["A", "B"])]]
    with pytest.raises(ValueError, match='asks for label_style="bare"'):
        prompt_option_tokens(tokenizer, [prompt], [["A", "B"]], "survey_published", "space")


def test_the_first_token_is_set_once_or_not_at_all(tokenizer):
    with_start, without = (encode_prompts(tokenizer, ["Tea?"], bos)[0] for bos in (True, False))
    assert with_start == [tokenizer.bos_token_id, *without]
    plain = make_tokenizer()
    plain.backend_tokenizer.post_processor = None
    plain = type(plain)(tokenizer_object=plain.backend_tokenizer, bos_token="<s>")
    assert encode_prompts(plain, ["Tea?"])[0] == without


def test_a_folder_loads_in_evaluation_mode_with_its_identity(model, loaded_model):
    assert not loaded_model.network.training
    assert loaded_model.name == "tiny"
    assert loaded_model.identity["vocabulary_size"] == len(model.tokenizer)
    assert loaded_model.identity["weights"].startswith("sha256 ")
    assert loaded_model.identity["tokenizer"] == tokenizer_hash(model.tokenizer)
    for ours, theirs in zip(
        model.network.parameters(), loaded_model.network.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_attention_is_chosen_and_recorded(model_folder):
    for chosen in ("eager", "sdpa"):
        asked = load_model(str(model_folder), device="cpu", attention=chosen)
        assert asked.identity["attention"] == chosen
    with pytest.raises(ValueError, match="known: 4bit, 8bit"):
        load_model(str(model_folder), quantization="2bit")


def test_large_models_are_spread_and_quantised_while_loading(model, model_folder, monkeypatch):
    # What needs several GPUs is told to the loader; here it is only looked at.
    seen = {}

    def from_pretrained(place, **settings):
        seen.update(settings)
        return model.network

    monkeypatch.setattr("uqlib.models.AutoModelForCausalLM.from_pretrained", from_pretrained)
    asked = load_model(str(model_folder), device="spread", quantization="4bit", dtype="bfloat16")
    assert seen["device_map"] == "auto" and seen["dtype"] == torch.bfloat16
    assert seen["quantization_config"].load_in_4bit
    assert seen["use_safetensors"] and not seen["trust_remote_code"]
    assert asked.identity["quantization"] == "4bit"


def test_a_chat_template_wraps_the_prompt_and_sets_the_first_token_once(questions):
    tokenizer = make_tokenizer()
    with pytest.raises(ValueError, match="no chat template"):
        as_chat(tokenizer, PROMPT)
    plain = tokenizer_hash(tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} [assistant]{% endif %}"
    )
    assert tokenizer_hash(tokenizer) != plain
    assert as_chat(tokenizer, PROMPT) == f"<s>[user] {PROMPT} [assistant]"
    (ids,) = encode_prompts(tokenizer, [as_chat(tokenizer, PROMPT)], bos=False)
    assert ids.count(tokenizer.bos_token_id) == 1


def test_pickled_weights_are_not_read(model_folder, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in model_folder.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(str(folder))


def test_code_that_comes_with_a_model_is_not_run(model_folder, tmp_path):
    folder = tmp_path / "custom"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoModelForCausalLM": "odd.Odd"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "odd.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="odd"):
        load_model(str(folder))


def test_a_missing_model_and_an_unknown_dtype_are_named():
    with pytest.raises(OSError, match="no-such/model"):
        load_model("no-such/model")
    with pytest.raises(ValueError, match="float32, bfloat16, float16"):
        load_model("zoo", dtype="float8")


def test_names_in_paths(model_folder):
    assert model_name("org/model") == "org--model"
    assert model_name(str(model_folder)) == "tiny"
