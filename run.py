"""Train MiniCLIP: `python run.py optimizer=sam optimizer.rho=0.05`. See README.md."""

from miniclip.commands.train import train

if __name__ == "__main__":
    train()
