"""Does what a runbook page says, as somebody at a shell would: every command as it stands there, with the words in capitals filled in."""

import os
import re
import subprocess
import time

from shop import ROOT

PAGES = ROOT / "docs/runbooks"
WORDS = re.compile(r"\b(ROLE|PID|POD|ORDER|PRODUCT|COUNT|KEY|REFERENCE|AGGREGATE)\b")
ELSEWHERE = ("kubectl ", "helm ")
# what a shell or the database says of a command that cannot be right
WRONG = re.compile(r"postgresql says|syntax error|command not found|No such file or directory", re.MULTILINE)


def blocks(text, chapter=None):
    """The commands of a chapter, or of the whole page."""
    if chapter:
        text = re.search(rf"^\*\*{chapter}\.\*\*(.*?)(?=^\*\*|\Z)", text, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


class Hand:
    """Somebody who follows pages and writes down what was answered."""

    def __init__(self, prometheus, transcript):
        self.prometheus, self.transcript = prometheus, transcript
        # what the pages' first page says is to be set
        (self.before,) = blocks((PAGES / "README.md").read_text())
        self.wrong = []

    def follow(self, alert, chapter, values, only=None):
        """Runs the commands of a chapter, or those of them that `only` numbers from 0. What is seen should tell something, a repair must not fail."""
        page = (PAGES / f"{alert}.md").read_text()
        commands = [line for block in blocks(page, chapter) for line in block.splitlines() if line.strip()]
        told, mute, others = 0, [], 0
        for number, command in enumerate(commands):
            if only is not None and number not in only:
                continue
            if command.startswith(ELSEWHERE):
                others += 1
                continue
            answer = self.one(f"{alert} {chapter}", command, values)
            told += bool(answer)
            mute += [] if answer else [command]
        what = "told something" if chapter == "See" else "done"
        self.note(f"    {alert}, {chapter.lower()}: {told} of {told + len(mute)} {what}" + (f", {others} for Kubernetes" if others else ""))
        for command in mute:
            self.note(f"      {'told nothing' if chapter == 'See' else 'FAILED'}: {command}")
        if mute and chapter == "Repair":
            self.wrong += [f"{alert} {chapter}: {command}: failed" for command in mute]

    def one(self, where, command, values):
        """Runs a command; its answer."""
        expression, asked, _ = command.partition("# Prometheus")
        for word in set(WORDS.findall(command.partition("# or:")[0])):
            if word not in values:
                return self.broken(where, command, f"nothing is known for {word}")
        fill = lambda text: WORDS.sub(lambda found: str(values.get(found[1], found[1])), text)
        if asked:
            try:
                answer = "\n".join(self.prometheus.series(fill(expression).strip()))
            except OSError as error:
                return self.broken(where, command, str(error))
            self.write(f"\n# {where}\n> {fill(command)}\n{answer}\n")
            return answer
        blockers = "pg_blocking_pids" in command
        for _ in range(40):
            done = self.shell(fill(command))
            found = re.search(r"^ *pid *\|.*\n[-+]+\n *(\d+) *\|", done.stdout, re.MULTILINE)
            if not blockers or found or done.returncode:
                break
            time.sleep(0.5)  # somebody waits for a lock only now and then
        if blockers and found:
            values["PID"] = found[1]
        self.write(f"\n# {where}\n$ {fill(command)}\n{done.stdout}{done.stderr}(exit code {done.returncode})\n")
        if done.returncode in (2, 126, 127) or WRONG.search(done.stderr):
            return self.broken(where, command, done.stderr.strip())
        if where.endswith("Repair"):
            return "done" if done.returncode == 0 else ""
        return "" if done.stdout.strip().endswith("(0 rows)") else done.stdout.strip()

    def shell(self, command):
        """Runs a command as the first page prepares it."""
        script = f"{self.before}\n{command}"
        return subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ | {"PAGER": "cat"}, check=False)

    def broken(self, where, command, why):
        """Remembers a command that cannot be right."""
        self.wrong.append(f"{where}: {command}: {why}")
        self.note(f"      WRONG: {command}: {why}")
        return ""

    def note(self, text):
        """For who watches, and for the transcript."""
        print(text, flush=True)
        self.write(f"{text}\n")

    def write(self, text):
        """For the transcript."""
        with open(self.transcript, "a", encoding="utf-8") as file:
            file.write(text)
