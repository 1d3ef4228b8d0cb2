// Commands and keys can be copied by a button.
export function offerCopies(root = document) {
  for (const box of root.querySelectorAll(".command")) {
    const code = box.querySelector("code");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      button.textContent = (await copied(code)) ? "Copied" : "Select and copy";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    box.append(button);
  }
}

async function copied(code) {
  getSelection().selectAllChildren(code);
  // Only a page by https or from this machine may write to the clipboard; elsewhere the text stays selected.
  if (!navigator.clipboard) return false;
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch (refused) {
    if (refused instanceof DOMException) return false;
    throw refused;
  }
}
