// What the playground does in the browser: copy and save tweets, and send the id of a picked token.

const playground = {
  samples() {
    const box = document.querySelector("#cards [data-samples]");
    return box ? JSON.parse(box.dataset.samples) : [];
  },

  async copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // the clipboard is not allowed over plain HTTP from another machine
      const box = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(box);
      box.select();
      document.execCommand("copy");
      box.remove();
    }
  },

  // A button with data-copy copies that text, and shows "Copied" for a moment.
  copying(element) {
    element.addEventListener("click", async ({ target }) => {
      const button = target.closest("[data-copy]");
      if (!button) return;
      await playground.copy(button.dataset.copy);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1200);
    });
  },

  picking(element, trigger) {
    playground.copying(element);
    element.addEventListener("click", ({ target }) => {
      const button = target.closest("[data-token]");
      if (button) trigger("click", { token: Number(button.dataset.token) });
    });
  },

  text() {
    return playground.samples().map(({ text }) => text + "\n").join("");
  },

  copyAll() {
    playground.copy(playground.text());
  },

  save(name, type, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  },

  saveText() {
    playground.save("tweets.txt", "text/plain", playground.text());
  },

  saveJson() {
    playground.save("tweets.json", "application/json", JSON.stringify({ samples: playground.samples() }, null, 2) + "\n");
  },
};
