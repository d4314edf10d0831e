import os
import shutil
import subprocess

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library is imported: no network in tests

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from uqlib.models import LanguageModel, load_model, tokenizer_hash
from uqlib.prompts import INSTRUCTION
from uqlib.questions.schema import check_questions, question_ids

collect_ignore = ["reference"]  # scripts that need libraries which the project does not


def make_tokenizer(space_labels: bool = True, words: str = "") -> PreTrainedTokenizerFast:
    """A byte-level BPE that sets a beginning-of-sequence token.

    Labels, and further words, are tokens with a space.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = "".join(f" {letter}" for letter in "ABCDEFGH") if space_labels else ""
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(
        [INSTRUCTION + " Question: Answer:"] + [letters + words] * 50, trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.fixture(scope="module")
def one_thread():
    """Let torch compute on one thread, as trainings that repeat to the bit do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer) -> LanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    network = LlamaForCausalLM(config).eval()
    identity = {
        "model": "tiny",
        "weights": "random, seed 0",
        "tokenizer": tokenizer_hash(tokenizer),
    }
    return LanguageModel("tiny", network, tokenizer, identity)


@pytest.fixture(scope="session")
def model_folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded_model(model_folder) -> LanguageModel:
    return load_model(str(model_folder), device="cpu")


@pytest.fixture
def questions() -> pd.DataFrame:
    texts = ["Tea?", "Which of these animals is the largest one by far?", "Hot or cold?", "Why?"]
    choices = [["yes", "no"], ["ant", "cow", "whale"], ["hot", "cold"], ["a", "b", "c", "d"]]
    table = pd.DataFrame(
        {
            "dataset": "demo",
            "subject": ["tea", "animals", "tea", "reasons"],
            "text": texts,
            "choices": choices,
            "human_shares": [[0.5, 0.5], [0.1, 0.2, 0.7], [0.9, 0.1], [0.25] * 4],
            "answer": [0, 2, 1, 3],
            "source": "tests",
        }
    )
    return check_questions(table.assign(question_id=question_ids(table)))


@pytest.fixture
def browser(tmp_path):
    """Return what a page has become once its scripts have run, in a browser without network."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
    if program is None:
        pytest.skip("no chromium found: the page is not tried in a browser")

    def show(address: str) -> str:
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000",
            "--dump-dom", address,
        ]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return run.stdout

    return show
