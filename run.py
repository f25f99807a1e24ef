"""Train MiniCLIP: `python run.py optimizer=sam optimizer.rho=0.05`. See README.md."""

from miniclip.cli import train

if __name__ == "__main__":
    train()
