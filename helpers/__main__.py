"""The command line: python -m helpers train | chat | complete | evaluate.

Heavy imports wait until a command needs them, so that the first token of a chat comes soon.
"""

import argparse
import sys

EXAMPLES = """examples:
  python -m helpers chat                                  talk to Sprout; grows it first if there is none
  python -m helpers chat --prompt "What is a token?"      one question, one answer
  python -m helpers train --data my_texts/ --out my_model grow a model from your own .txt files
  python -m helpers train --resume                        go on where training stopped
  python -m helpers complete --model my_model --prompt "Once"
  python -m helpers evaluate                              scores on questions it never saw
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m helpers", description="Grow a small language model and talk to it.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="train | chat | complete | evaluate")

    train = commands.add_parser("train", help="grow a model: tokenizer, pretraining, finetuning")
    train.add_argument(
        "--data",
        default="sprout",
        help="sprout (the course's corpus), a .txt file or a folder of them (a base model), or conversations as .json or .jsonl; default: sprout",
    )
    train.add_argument(
        "--from", dest="start_from", metavar="DIR", help="a model folder to go on from, instead of a new model"
    )
    train.add_argument(
        "--size",
        default="sprout",
        help="tiny (seconds, for tests), sprout (minutes) or gpt2 (124M, for a GPU); default: sprout",
    )
    train.add_argument("--out", metavar="DIR", help="where the model goes; default: data/models/NAME_OF_DATA")
    train.add_argument("--resume", action="store_true", help="finish a run that was stopped")
    train.add_argument("--max-seconds", type=float, metavar="S", help="as many steps as fit into about S seconds")

    chat = commands.add_parser("chat", help="talk to a model")
    chat.add_argument("--prompt", help="say this, print the answer, and stop")
    complete = commands.add_parser("complete", help="continue a text")
    complete.add_argument("--prompt", required=True, help="the text to continue")
    evaluate = commands.add_parser("evaluate", help="score a chat model on held-out questions")
    for command in (chat, complete, evaluate):
        command.add_argument("--model", metavar="DIR", help="a model folder; default: the grown Sprout")
    for command in (chat, complete):
        command.add_argument("--max-new-tokens", type=int, default=160, help="longest answer, in tokens; default: 160")
        command.add_argument(
            "--temperature", type=float, default=0.6, help="0 is always the likeliest token, 1.5 is wild; default: 0.6"
        )
        command.add_argument("--seed", type=int, help="makes the answer repeatable")
    return top


def generator(seed: int | None):
    import torch

    return None if seed is None else torch.Generator().manual_seed(seed)


def run_train(arguments) -> None:
    from .grow import Grower

    grower = Grower(
        arguments.out, data=arguments.data, size=arguments.size, start_from=arguments.start_from,
        max_seconds=arguments.max_seconds, resume=arguments.resume,
    )  # fmt: skip
    folder = grower.grow()
    word = "chat" if grower.data.conversations else "complete --prompt TEXT"
    print(f"try it: python -m helpers {word} --model {folder}")


def run_chat(arguments) -> None:
    from .chat import Chat
    from .grow import Grower, models_folder

    if arguments.prompt is not None and not arguments.prompt.strip():
        raise ValueError("--prompt is empty; give a few words")
    if arguments.model is None and not (models_folder() / "sprout" / "config.json").is_file():
        print("There is no Sprout here yet, so it is grown first; this takes a few minutes, once.", flush=True)
        unfinished = (models_folder() / "sprout" / "growing.json").is_file()
        Grower(resume=unfinished).grow()
    chat = Chat.load(arguments.model)
    settings = dict(
        max_new_tokens=arguments.max_new_tokens, temperature=arguments.temperature, generator=generator(arguments.seed)
    )
    if arguments.prompt is not None:
        say(chat.stream(arguments.prompt, **settings))
        return
    print("Talk to Sprout. An empty line says goodbye, /new starts over, Ctrl-C cuts a reply short.")
    while text := ask():
        if text == "/new":
            chat.reset()
            print("A fresh start: everything said so far is forgotten.")
            continue
        try:
            say(chat.stream(text, **settings))
        except KeyboardInterrupt:
            print(" ...")  # the part that was said stays in the conversation
        except ValueError as error:
            print(error)


def ask() -> str:
    """A line from the reader; empty when they are done."""
    try:
        return input("you> ").strip()
    except EOFError:
        return ""


def say(pieces) -> None:
    for piece in pieces:
        print(printable(piece), end="", flush=True)
    print()


def printable(text: str) -> str:
    """`text` without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def run_complete(arguments) -> None:
    from .sampling import generate
    from .tokenizer import END_OF_TEXT
    from .training import read_model

    model, tokenizer = read_model(arguments.model)
    ids = tokenizer.encode_ordinary(arguments.prompt)
    if not ids:
        raise ValueError("--prompt is empty; give a few words to continue")
    stop = [tokenizer.special_tokens[END_OF_TEXT]] if END_OF_TEXT in tokenizer.special_tokens else []
    new_ids = generate(
        model, ids, arguments.max_new_tokens, temperature=arguments.temperature, top_p=0.95, stop_ids=stop,
        generator=generator(arguments.seed),
    )  # fmt: skip
    print(printable(arguments.prompt), end="")
    say(tokenizer.decode_stream(new_ids))


def run_evaluate(arguments) -> None:
    from .corpus import Corpus
    from .grow import read_model, self_knowledge
    from .scores import score_chat

    model, tokenizer = read_model(arguments.model, chat=True)
    cards = score_chat(model, tokenizer, Corpus(), self_knowledge(model.config))
    names = list(cards["model"].by_score)
    print(f"{'':18}" + "".join(f"{name:>12}" for name in [*names, "well-formed", "verbatim"]))
    for who, card in cards.items():
        values = [*(card.by_score[name] for name in names), card.well_formed, card.verbatim]
        print(f"{who:18}" + "".join(f"{100 * value:11.0f}%" for value in values))
    print("\nby group: " + ", ".join(f"{group} {100 * value:.0f}%" for group, value in cards["model"].by_group.items()))


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    arguments = parser().parse_args(argv)
    run = {"train": run_train, "chat": run_chat, "complete": run_complete, "evaluate": run_evaluate}
    try:
        run[arguments.command](arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
